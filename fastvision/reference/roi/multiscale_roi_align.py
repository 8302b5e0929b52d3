"""RoIAlign on a feature pyramid in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.roi_align import roi_align
from fastvision.reference.roi.rois import to_rois, to_size


def levels_of(rois: Tensor, spatial_scales: Sequence[float], canonical_scale: float, canonical_level: float) -> Tensor:
    """[K] position in the pyramid, -1 where the area is negative or NaN."""
    if len(spatial_scales) == 1:
        return torch.zeros(len(rois), dtype=torch.long, device=rois.device)
    side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    level = (canonical_level + (side / canonical_scale).log2() + 1e-6).floor()
    position = (level - int(-math.log2(spatial_scales[0]))).clamp(0, len(spatial_scales) - 1)
    return torch.where(position.isnan(), -1, position.nan_to_num()).long()


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
    """L x [N, C, H, W], [K, 5] -> [K, C, P, Q]: each level pools the rois that are its own."""
    if len(features) != len(spatial_scales):
        raise ValueError(
            f"multiscale_roi_align: expected one spatial scale for each of {len(features)} feature maps, got "
            f"{len(spatial_scales)}"
        )
    work = torch.float64 if features[0].dtype == torch.float64 else torch.float32
    rois = to_rois(boxes, features[0]).to(work)
    levels = levels_of(rois.detach(), spatial_scales, canonical_scale, canonical_level)
    pooled = features[0].new_zeros(len(rois), features[0].shape[1], *to_size(output_size))
    for level, (feature, scale) in enumerate(zip(features, spatial_scales, strict=True)):
        (mine,) = torch.where(levels == level)
        part = roi_align(feature, rois[mine], output_size, scale, sampling_ratio, aligned, box_gradients=box_gradients)
        pooled = pooled.index_put((mine,), part)
    return pooled
