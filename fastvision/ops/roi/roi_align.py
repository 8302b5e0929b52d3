"""RoIAlign."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, once_differentiable, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.reference.roi.rois import to_rois, to_size


@with_reference(reference.roi.roi_align)
def roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    box_gradients: bool = False,
) -> Tensor:
    """Averages bilinear samples of a feature map over the bins of each region.

    A NaN or infinite region, or one wholly outside the map, gives zeros and no gradient. However large a region is,
    only its samples inside the map are visited; the mean still divides by all of them.

    Args:
        input: feature map ``[N, C, H, W]``, any strides; channels_last in gives channels_last out.
        boxes: rois ``[K, 5]`` as ``(image, x1, y1, x2, y2)``, or a list of ``[K_i, 4]``, one per image, in image
            pixels and any floating dtype.
        output_size: ``(P, Q)`` bins, or one number for both.
        spatial_scale: feature-map pixels per image pixel.
        sampling_ratio: samples per bin along each axis; ``<= 0``: as many as the bin has pixels, rounded up.
        aligned: shift regions by half a pixel so that pixel centres line up (``True`` in Detectron2).
        box_gradients: differentiate with respect to ``boxes`` too (once). Bilinear sampling is piecewise smooth: the
            gradient is exact except where a sample lies on a pixel or at the border, or an adaptive number of samples
            changes.

    Shapes:
        ``[N, C, H, W], [K, 5] -> [K, C, P, Q]`` in the dtype of ``input``. Differentiable in ``input``, any number of
        times unless ``box_gradients`` is set; gradients are bitwise the same in every run and for every number of
        threads.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an output size below 1, a sampling ratio above 2^20.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a region gives zeros).

    Complexity:
        ``O(K C (h + P) (w + Q))`` at most for regions of ``h x w`` feature pixels; ``O(K C P Q s^2)`` at most for a
        sampling ratio ``s``.

    Reference:
        He et al. 2017, section 3; signature of ``torchvision.ops.roi_align``.
    """
    height, width = to_size(output_size)
    rois = to_rois(boxes, input)
    return call("roi_align", input, rois, spatial_scale, height, width, sampling_ratio, aligned, box_gradients)


class RoIAlign(nn.Module):
    """:func:`roi_align` as a module; same arguments as ``torchvision.ops.RoIAlign``."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """``[N, C, H, W], [K, 5] -> [K, C, P, Q]``."""
        return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, self.aligned)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


@register_fake("roi_align")
def _(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
    box_gradients: bool,
) -> Tensor:
    size = [rois.shape[0], input.shape[1], pooled_height, pooled_width]
    return empty_map(input, size, is_channels_last(input))


@register_fake("roi_align_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    spatial_scale: float,
    batch: int,
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
    channels_last: bool,
    box_gradients: bool,
) -> Tensor:
    return empty_map(grad, [batch, grad.shape[1], height, width], channels_last)


@register_fake("roi_align_box_gradients")
def _(grad: Tensor, input: Tensor, rois: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool) -> Tensor:
    return empty_box_gradients(input, rois)


def empty_box_gradients(input: Tensor, rois: Tensor) -> Tensor:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return rois.new_empty(rois.shape, dtype=dtype)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, ctx.spatial_scale, _, _, ctx.sampling_ratio, ctx.aligned, ctx.box_gradients = inputs
    ctx.save_for_backward(rois, *([input] if ctx.box_gradients else []))
    ctx.batch, _, ctx.height, ctx.width = input.shape
    ctx.channels_last = is_channels_last(input)


def _roi_align_backward(ctx: Any, grad: Tensor) -> Any:
    rois, *saved = ctx.saved_tensors
    to_input = to_rois = None
    if ctx.needs_input_grad[0]:
        to_input = call(
            "roi_align_backward",
            grad,
            rois,
            ctx.spatial_scale,
            ctx.batch,
            ctx.height,
            ctx.width,
            ctx.sampling_ratio,
            ctx.aligned,
            ctx.channels_last,
            ctx.box_gradients,
        )
    if ctx.needs_input_grad[1] and ctx.box_gradients:
        to_rois = call(
            "roi_align_box_gradients", grad, saved[0], rois, ctx.spatial_scale, ctx.sampling_ratio, ctx.aligned
        ).to(rois.dtype)
    return to_input, to_rois, None, None, None, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, rois, ctx.spatial_scale, _, _, _, ctx.sampling_ratio, ctx.aligned, _, ctx.box_gradients = inputs
    ctx.save_for_backward(rois)
    ctx.pooled = grad.shape[2:]


def _roi_align_double_backward(ctx: Any, grad: Tensor) -> Any:
    """roi_align is linear in its input, so the backward of its backward is roi_align itself."""
    if ctx.box_gradients:
        raise RuntimeError("fastvision::roi_align has no second derivative with box_gradients=True")
    (rois,) = ctx.saved_tensors
    to_grad = call(
        "roi_align", grad, rois, ctx.spatial_scale, ctx.pooled[0], ctx.pooled[1], ctx.sampling_ratio, ctx.aligned, False
    )
    return to_grad, None, None, None, None, None, None, None, None, None


register_autograd("roi_align", _roi_align_backward, _save_forward)
register_autograd("roi_align_backward", _roi_align_double_backward, _save_backward)
once_differentiable("roi_align_box_gradients")
