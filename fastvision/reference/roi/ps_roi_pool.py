"""Position-sensitive RoI pooling in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.ps_roi_align import check_channels, own_bins
from fastvision.reference.roi.roi_pool import bin_edges, round_half_away
from fastvision.reference.roi.rois import to_rois, to_size


def ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """[N, C P Q, H, W], [K, 5] -> [K, C, P, Q]: a product with one matrix of means on each side of the map."""
    height, width = to_size(output_size)
    check_channels("ps_roi_pool", input, height, width)
    work = torch.float64 if input.dtype == torch.float64 else torch.float32
    features, rois = input.to(work), to_rois(boxes, input).detach().to(work)
    pooled = [features.new_zeros(0, input.shape[1], height, width) + 0 * features.sum()]
    for roi in rois:
        if not 0 <= roi[0] < len(input):
            raise IndexError(f"ps_roi_pool: expected the image of a roi in [0, {len(input)}), got {roi[0]}")
        x1, y1, x2, y2 = round_half_away(roi[1:] * spatial_scale).unbind()
        rows = means(y1, y2, height, input.shape[2])
        columns = means(x1, x2, width, input.shape[3])
        pooled.append((rows @ features[int(roi[0])] @ columns.T)[None])
    return own_bins(torch.cat(pooled)).to(input.dtype)


def means(low: Tensor, high: Tensor, bins: int, size: int) -> Tensor:
    """[bins, size]: row b takes the mean of the pixels of bin b; the last pixel of the map is in none."""
    matrix = low.new_zeros(bins, size)
    if low.isfinite() and high.isfinite():
        for b, (first, last) in enumerate(bin_edges(low, high - 1, bins, max(size - 1, 0))):
            matrix[b, first:last] = 1 / max(last - first, 1)
    return matrix
