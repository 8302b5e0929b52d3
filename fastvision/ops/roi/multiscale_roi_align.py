"""RoIAlign on a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, once_differentiable, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.ops.roi.roi_align import empty_box_gradients
from fastvision.reference.roi.rois import to_rois, to_size


@with_reference(reference.roi.multiscale_roi_align)
def multiscale_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    *,
    spatial_scales: Sequence[float],
    sampling_ratio: int = -1,
    aligned: bool = False,
    canonical_scale: float = 224,
    canonical_level: float = 4,
    box_gradients: bool = False,
) -> Tensor:
    """:func:`roi_align` of each region on the level of a feature pyramid that suits its size, in one call.

    A region of ``w x h`` image pixels is pooled from level ``floor(canonical_level + log2(sqrt(w h) /
    canonical_scale))``, or the nearest there is; level ``l`` is the one with ``2^-l`` pixels per image pixel. One whose
    area is negative or NaN has no level and gives zeros, unless there is only one.

    Args:
        features: maps ``[N, C, H_l, W_l]`` from fine to coarse, each scale half the one before.
        boxes: rois ``[K, 5]`` as ``(image, x1, y1, x2, y2)``, or a list of ``[K_i, 4]``, one per image, in image
            pixels and any floating dtype.
        output_size: ``(P, Q)`` bins, or one number for both.
        spatial_scales: pixels of each map per image pixel.
        sampling_ratio: samples per bin along each axis; ``<= 0``: as many as the bin has pixels, rounded up.
        aligned: shift regions by half a pixel so that pixel centres line up (``True`` in Detectron2).
        canonical_scale: side in image pixels of the regions that belong to ``canonical_level``.
        canonical_level: see above; 224 and 4 are those of an ImageNet backbone.
        box_gradients: differentiate with respect to ``boxes`` too (once), as in :func:`roi_align`; the choice of the
            level has no gradient.

    Shapes:
        ``L x [N, C, H_l, W_l], [K, 5] -> [K, C, P, Q]`` in the dtype of ``features``, channels_last if the first map
        is. Differentiable in ``features``, any number of times unless ``box_gradients`` is set; gradients are bitwise
        the same in every run and for every number of threads.

    Raises:
        ValueError: no map or more than 16, maps that differ in images, channels or dtype, wrong shapes or dtypes,
            scales that are not positive or not one a map.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a region gives zeros).

    Complexity:
        That of :func:`roi_align`; each map is read once.

    Reference:
        Lin et al. 2017, "Feature Pyramid Networks", section 4.2, equation 1; He et al. 2017, section 3.
    """
    height, width = to_size(output_size)
    maps = list(features)
    if not maps:
        raise ValueError("multiscale_roi_align: expected at least one feature map")
    return call(
        "multiscale_roi_align",
        maps,
        to_rois(boxes, maps[0]),
        list(spatial_scales),
        height,
        width,
        sampling_ratio,
        aligned,
        canonical_scale,
        canonical_level,
        box_gradients,
    )


class MultiScaleRoIAlign(nn.Module):
    """:func:`multiscale_roi_align` as ``torchvision.ops.MultiScaleRoIAlign``: same arguments, same results.

    The scale of each map is inferred from its size and that of the largest image, as a power of two.
    """

    def __init__(
        self,
        featmap_names: list[str],
        output_size: int | Sequence[int],
        sampling_ratio: int,
        *,
        canonical_scale: int = 224,
        canonical_level: int = 4,
        aligned: bool = False,
        box_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.featmap_names = featmap_names
        self.output_size = to_size(output_size)
        self.sampling_ratio = sampling_ratio
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.aligned = aligned
        self.box_gradients = box_gradients

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps by name (those in ``featmap_names`` take part), boxes ``[K_i, 4]`` and ``(height, width)`` of each
        image -> ``[sum K_i, C, P, Q]``."""
        features = [value for name, value in x.items() if name in self.featmap_names]
        if not features:
            raise ValueError(f"MultiScaleRoIAlign: expected maps named {self.featmap_names}, got {list(x)}")
        if not image_shapes:
            raise ValueError("MultiScaleRoIAlign: expected at least one image shape")
        largest = max(height for height, _ in image_shapes)
        return multiscale_roi_align(
            features,
            boxes,
            self.output_size,
            spatial_scales=[2.0 ** round(math.log2(map.shape[-2] / largest)) for map in features],
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
            box_gradients=self.box_gradients,
        )

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, sampling_ratio={self.sampling_ratio}"
        )


@register_fake("multiscale_roi_align")
def _(
    features: list[Tensor],
    rois: Tensor,
    spatial_scales: list[float],
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
    canonical_scale: float,
    canonical_level: float,
    box_gradients: bool,
) -> Tensor:
    size = [rois.shape[0], features[0].shape[1], pooled_height, pooled_width]
    return empty_map(features[0], size, is_channels_last(features[0]))


@register_fake("multiscale_roi_align_backward")
def _(
    grad: Tensor,
    rois: Tensor,
    batch: int,
    heights: list[int],
    widths: list[int],
    spatial_scales: list[float],
    sampling_ratio: int,
    aligned: bool,
    canonical_scale: float,
    canonical_level: float,
    channels_last: bool,
    box_gradients: bool,
) -> list[Tensor]:
    return [
        empty_map(grad, [batch, grad.shape[1], height, width], channels_last)
        for height, width in zip(heights, widths, strict=True)
    ]


@register_fake("multiscale_roi_align_box_gradients")
def _(
    grad: Tensor,
    features: list[Tensor],
    rois: Tensor,
    spatial_scales: list[float],
    sampling_ratio: int,
    aligned: bool,
    canonical_scale: float,
    canonical_level: float,
) -> Tensor:
    return empty_box_gradients(features[0], rois)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, ctx.scales, _, _, ctx.sampling_ratio, ctx.aligned, *ctx.rule, ctx.box_gradients = inputs
    ctx.save_for_backward(rois, *(features if ctx.box_gradients else []))
    ctx.levels, ctx.batch = len(features), features[0].shape[0]
    ctx.heights, ctx.widths = [f.shape[2] for f in features], [f.shape[3] for f in features]
    ctx.channels_last = is_channels_last(features[0])


def _multiscale_roi_align_backward(ctx: Any, grad: Tensor) -> Any:
    rois, *features = ctx.saved_tensors
    to_features: list[Tensor] | list[None] = [None] * ctx.levels
    to_rois = None
    sampling = (ctx.scales, ctx.sampling_ratio, ctx.aligned, *ctx.rule)
    if any(ctx.needs_input_grad[0]):
        to_features = call(
            "multiscale_roi_align_backward",
            grad,
            rois,
            ctx.batch,
            ctx.heights,
            ctx.widths,
            *sampling,
            ctx.channels_last,
            ctx.box_gradients,
        )
    if ctx.needs_input_grad[1] and ctx.box_gradients:
        to_rois = call("multiscale_roi_align_box_gradients", grad, features, rois, *sampling)
        to_rois = to_rois.to(rois.dtype)
    return to_features, to_rois, *([None] * 8)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, rois, _, _, _, ctx.scales, ctx.sampling_ratio, ctx.aligned, *ctx.rule, _, ctx.box_gradients = inputs
    ctx.save_for_backward(rois)
    ctx.pooled = grad.shape[2:]


def _multiscale_roi_align_double_backward(ctx: Any, grads: list[Tensor]) -> Any:
    """Linear in the features, as roi_align is."""
    if ctx.box_gradients:
        raise RuntimeError("fastvision::multiscale_roi_align has no second derivative with box_gradients=True")
    (rois,) = ctx.saved_tensors
    to_grad = call(
        "multiscale_roi_align",
        grads,
        rois,
        ctx.scales,
        ctx.pooled[0],
        ctx.pooled[1],
        ctx.sampling_ratio,
        ctx.aligned,
        *ctx.rule,
        False,
    )
    return to_grad, *([None] * 11)


register_autograd("multiscale_roi_align", _multiscale_roi_align_backward, _save_forward)
register_autograd("multiscale_roi_align_backward", _multiscale_roi_align_double_backward, _save_backward)
once_differentiable("multiscale_roi_align_box_gradients")
