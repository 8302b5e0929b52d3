"""RoIAlign in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.rois import to_rois, to_size


def sampling_matrix(start: Tensor, length: Tensor, bins: int, sampling_ratio: int, size: int) -> Tensor:
    """[bins, size]: row b averages the bilinear samples of bin b along one axis. Differentiable in start and length.

    A sample outside [-1, size] counts as zero; one in the outermost half pixel takes the border's value.
    """
    matrix = start.new_zeros(bins, size)
    if not (start.isfinite() and length.isfinite()):
        return matrix
    samples = sampling_ratio if sampling_ratio > 0 else math.ceil(length.item() / bins)
    if samples <= 0 or size == 0:
        return matrix
    bin_length = length / bins
    origin = start + torch.arange(bins, dtype=start.dtype, device=start.device)[:, None] * bin_length
    step = bin_length.item() / samples
    # however long the bin, only this many samples in a row can lie inside
    count = min(samples, int((size + 1) / step) + 4) if step > 0 else samples
    first = ((-1 - origin.detach()) / step).floor().sub(1).clamp(0, samples - count) if step > 0 else 0
    s = first + torch.arange(count, dtype=start.dtype, device=start.device)
    position = origin + (s + 0.5) * bin_length / samples  # [bins, count]
    inside = (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    low = position.detach().floor().long()
    high = (low + 1).clamp(max=size - 1)
    fraction = position - low
    matrix = matrix.scatter_add(1, low, inside * (1 - fraction) / samples)
    return matrix.scatter_add(1, high, inside * fraction / samples)


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
    """[N, C, H, W], [K, 5] -> [K, C, P, Q]: one small matrix product on each side of the feature map."""
    height, width = to_size(output_size)
    work = torch.float64 if input.dtype == torch.float64 else torch.float32
    features, rois = input.to(work), to_rois(boxes, input).to(work)
    if not box_gradients:
        rois = rois.detach()
    offset = 0.5 if aligned else 0.0
    pooled = []
    for roi in rois:
        if not 0 <= roi[0] < len(features):
            raise IndexError(f"roi_align: expected the image of a roi in [0, {len(features)}), got {roi[0]}")
        x1, y1, x2, y2 = (roi[1:] * spatial_scale - offset).unbind()
        roi_width, roi_height = x2 - x1, y2 - y1
        if not aligned:
            roi_width, roi_height = roi_width.clamp(min=1), roi_height.clamp(min=1)
        rows = sampling_matrix(y1, roi_height, height, sampling_ratio, input.shape[2])
        columns = sampling_matrix(x1, roi_width, width, sampling_ratio, input.shape[3])
        pooled.append(rows @ features[int(roi[0])] @ columns.T)
    if not pooled:
        return input.new_zeros(0, input.shape[1], height, width) + 0 * (input.sum() + rois.sum())
    return torch.stack(pooled).to(input.dtype)
