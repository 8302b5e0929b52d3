"""Position-sensitive RoIAlign in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.roi_align import roi_align
from fastvision.reference.roi.rois import to_rois, to_size


def own_bins(pooled: Tensor) -> Tensor:
    """[K, C P Q, P, Q] -> [K, C, P, Q]: of each channel the bin that is its own."""
    k, channels, height, width = pooled.shape
    outputs, bins = channels // (height * width), height * width
    return pooled.view(k, outputs, bins, bins).diagonal(dim1=2, dim2=3).reshape(k, outputs, height, width)


def check_channels(op: str, input: Tensor, height: int, width: int) -> None:
    if input.shape[1] % (height * width):
        raise ValueError(f"{op}: expected a multiple of {height} x {width} channels, got {input.shape[1]}")


def ps_roi_align(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
) -> Tensor:
    """[N, C P Q, H, W], [K, 5] -> [K, C, P, Q]: all bins of all channels, most of them for nothing."""
    height, width = to_size(output_size)
    check_channels("ps_roi_align", input, height, width)
    rois = to_rois(boxes, input)
    pooled = [roi_align(input, roi[None], (height, width), spatial_scale, sampling_ratio, True) for roi in rois]
    return own_bins(torch.cat(pooled or [roi_align(input, rois, (height, width))]))
