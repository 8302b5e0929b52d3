"""RoI max pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.reference.roi.rois import to_rois, to_size


@with_reference(reference.roi.roi_pool)
def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """The largest value of a feature map in each bin of each region.

    The corners of a region are rounded to pixels and both belong to it; bins are whole pixels and neighbours may
    share one. A bin without a pixel in the map is zero, and so is a NaN or infinite region; neither has a gradient. NaN
    values of the map are larger than any number, as in torch's max pooling.

    Args:
        input: feature map ``[N, C, H, W]``, any strides; channels_last in gives channels_last out.
        boxes: rois ``[K, 5]`` as ``(image, x1, y1, x2, y2)``, or a list of ``[K_i, 4]``, one per image, in image
            pixels and any floating dtype.
        output_size: ``(P, Q)`` bins, or one number for both.
        spatial_scale: feature-map pixels per image pixel.

    Shapes:
        ``[N, C, H, W], [K, 5] -> [K, C, P, Q]`` in the dtype of ``input``. Differentiable in ``input``, any number of
        times; gradients go to the first of equal values, and are bitwise the same in every run and for every number of
        threads.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an output size below 1, more than 2^31 - 1 pixels in a plane.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a region gives zeros).

    Complexity:
        ``O(K C (h w + P Q))`` for regions of ``h x w`` feature pixels.

    Reference:
        Girshick 2015, "Fast R-CNN", section 2.1; signature of ``torchvision.ops.roi_pool``.
    """
    height, width = to_size(output_size)
    output, _ = call("roi_pool", input, to_rois(boxes, input), spatial_scale, height, width, False)
    return output


class RoIPool(nn.Module):
    """:func:`roi_pool` as a module; same arguments as ``torchvision.ops.RoIPool``."""

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """``[N, C, H, W], [K, 5] -> [K, C, P, Q]``."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


@register_fake("roi_pool")
def _(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, exact_bins: bool
) -> tuple[Tensor, Tensor]:
    output = empty_map(input, [rois.shape[0], input.shape[1], pooled_height, pooled_width], is_channels_last(input))
    return output, torch.empty_like(output, dtype=torch.int32)


@register_fake("roi_pool_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    argmax: Tensor,
    spatial_scale: float,
    batch: int,
    height: int,
    width: int,
    exact_bins: bool,
    channels_last: bool,
) -> Tensor:
    return empty_map(grad, [batch, grad.shape[1], height, width], channels_last)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, rois, ctx.spatial_scale, _, _, ctx.exact_bins = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # of the second: zeros that nobody reads
    ctx.save_for_backward(rois, output[1])
    ctx.batch, _, ctx.height, ctx.width = input.shape
    ctx.channels_last = is_channels_last(input)


def _roi_pool_backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
    if grad is None or not ctx.needs_input_grad[0]:
        return (None,) * 6
    rois, argmax = ctx.saved_tensors
    to_input = call(
        "roi_pool_backward",
        grad,
        rois,
        argmax,
        ctx.spatial_scale,
        ctx.batch,
        ctx.height,
        ctx.width,
        ctx.exact_bins,
        ctx.channels_last,
    )
    return to_input, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _roi_pool_double_backward(ctx: Any, grad: Tensor) -> Any:
    """The backward adds each bin to a pixel; its own backward reads that pixel. grad: [N, C, H, W]."""
    rois, argmax = ctx.saved_tensors
    batch, channels, height, width = grad.shape
    if grad.numel() == 0:
        return grad.new_zeros(argmax.shape), *((None,) * 8)
    image = rois[:, 0].nan_to_num().clamp(0, max(batch - 1, 0)).long()[:, None]
    plane = (image * channels + torch.arange(channels, device=grad.device))[:, :, None, None]  # [K, C, 1, 1]
    index = plane * (height * width) + argmax.clamp(min=0)
    to_grad = grad.contiguous().flatten().index_select(0, index.flatten()).view(argmax.shape)
    return torch.where(argmax >= 0, to_grad, 0), *((None,) * 8)


register_autograd("roi_pool", _roi_pool_backward, _save_forward)
register_autograd("roi_pool_backward", _roi_pool_double_backward, _save_backward)
