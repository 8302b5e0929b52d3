"""Spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastvision import reference
from fastvision._library import call, with_reference
from fastvision.reference.roi.rois import to_rois


@with_reference(reference.roi.spatial_pyramid_pool)
def spatial_pyramid_pool(
    input: Tensor,
    levels: Sequence[int],
    rois: Tensor | Sequence[Tensor] | None = None,
    *,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Turns maps or regions of any size into rows of one length: maxima over ``n x n`` bins, ``n`` in ``levels``.

    A row is the levels in the order given, each one ``[C, n, n]`` flattened: all bins of channel 0, then of channel 1.
    Bins of a whole image are those of ``torch.nn.functional.adaptive_max_pool2d``, bins of a roi those of
    :func:`roi_pool`, whose word on empty bins, NaN and equal maxima holds here too.

    Args:
        input: feature map ``[N, C, H, W]``, any strides.
        levels: bins along a side, such as ``(1, 2, 3, 6)``.
        rois: ``[K, 5]`` as ``(image, x1, y1, x2, y2)``, or a list of ``[K_i, 4]``, one per image, in image pixels;
            None pools whole images.
        spatial_scale: feature-map pixels per image pixel; only rois are scaled.

    Shapes:
        ``[N, C, H, W] -> [N, C * sum(n^2)]``; with rois ``[N, C, H, W], [K, 5] -> [K, C * sum(n^2)]``, in the dtype of
        ``input``. Differentiable in ``input``, any number of times; gradients are bitwise the same in every run, for
        every number of threads, and lie in memory as ``input`` does.

    Raises:
        ValueError: wrong shapes, dtypes or devices, no level or one below 1, whole images of more than 2^24 pixels a
            side, more than 2^31 - 1 pixels in a plane.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a region gives zeros).

    Complexity:
        ``O(K C sum((h + n) (w + n)))`` for regions of ``h x w`` feature pixels.

    Reference:
        He et al. 2014, section 2.2.
    """
    if input.dim() != 4:
        raise ValueError(f"spatial_pyramid_pool: expected a feature map of shape [N, C, H, W], got {list(input.shape)}")
    if rois is None and max(input.shape[2:]) > 2**24:
        raise ValueError("spatial_pyramid_pool: expected images of at most 2^24 pixels a side")
    if not levels:
        raise ValueError("spatial_pyramid_pool: expected at least one level")
    if rois is None:
        regions, scale, exact_bins = whole_images(input), 1.0, True
    else:
        regions, scale, exact_bins = to_rois(rois, input), spatial_scale, False
    pooled = [call("roi_pool", input, regions, scale, n, n, exact_bins)[0].flatten(1) for n in levels]
    return torch.cat(pooled, 1)


def whole_images(input: Tensor) -> Tensor:
    """[N, 5]: one roi an image, to its last pixel."""
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    rois = torch.zeros(input.shape[0], 5, dtype=dtype, device=input.device)
    rois[:, 0] = torch.arange(input.shape[0], device=input.device)
    rois[:, 3], rois[:, 4] = input.shape[3] - 1, input.shape[2] - 1
    return rois


class SpatialPyramidPool(nn.Module):
    """:func:`spatial_pyramid_pool` as a module."""

    def __init__(self, levels: Sequence[int], *, spatial_scale: float = 1.0) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """``[N, C, H, W] -> [N, C * sum(n^2)]``, or ``[K, C * sum(n^2)]`` of rois."""
        return spatial_pyramid_pool(input, self.levels, rois, spatial_scale=self.spatial_scale)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, spatial_scale={self.spatial_scale}"
