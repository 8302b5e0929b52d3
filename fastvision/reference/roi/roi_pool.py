"""RoI max pooling in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.rois import to_rois, to_size


def bin_edges(low: Tensor, high: Tensor, bins: int, size: int) -> list[tuple[int, int]]:
    """Pixels [first, last) of each bin between two rounded corners, both inclusive, clipped to the map."""
    start, length = low, (high - low + 1).clamp(min=1)
    index = torch.arange(bins, dtype=low.dtype, device=low.device)
    bin_length = length / torch.full_like(length, bins)  # by a number, CUDA would multiply with its rounded reciprocal
    first = start + (index * bin_length).floor()
    last = start + ((index + 1) * bin_length).ceil()
    edges = torch.stack([first, last]).nan_to_num(0.0, size, 0).clamp(0, size).long()
    return [(a, b) for a, b in edges.T.tolist()]


def round_half_away(x: Tensor) -> Tensor:
    return x.sign() * (x.abs() + 0.5).floor()


def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """[N, C, H, W], [K, 5] -> [K, C, P, Q]: the maximum of a slice for every bin."""
    height, width = to_size(output_size)
    rois = to_rois(boxes, input).detach().to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    pooled = [input.new_zeros(0, input.shape[1], height, width) + 0 * input.sum()]
    for roi in rois:
        if not 0 <= roi[0] < len(input):
            raise IndexError(f"roi_pool: expected the image of a roi in [0, {len(input)}), got {roi[0]}")
        features = input[int(roi[0])]
        x1, y1, x2, y2 = round_half_away(roi[1:] * spatial_scale).unbind()
        if not roi.isfinite().all():
            pooled.append(features.new_zeros(1, len(features), height, width))
            continue
        rows, columns = bin_edges(y1, y2, height, input.shape[2]), bin_edges(x1, x2, width, input.shape[3])
        bins = [largest(features[:, top:bottom, left:right]) for top, bottom in rows for left, right in columns]
        pooled.append(torch.stack(bins, 1).view(1, len(features), height, width))
    return torch.cat(pooled)


def largest(pixels: Tensor) -> Tensor:
    """[C, h, w] -> [C]; zero where there are no pixels. The gradient goes to the first of equal values."""
    flat = pixels.flatten(1)
    return flat.gather(1, flat.argmax(1, keepdim=True))[:, 0] if flat.shape[1] else flat.new_zeros(len(flat))
