"""Spatial pyramid pooling in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.roi_pool import largest, roi_pool


def whole_bounds(bins: int, size: int) -> list[tuple[int, int]]:
    """Pixels [begin, end) of the bins of a whole axis: floor(i size / bins) to ceil((i + 1) size / bins)."""
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


def spatial_pyramid_pool(
    input: Tensor,
    levels: Sequence[int],
    rois: Tensor | Sequence[Tensor] | None = None,
    *,
    spatial_scale: float = 1.0,
) -> Tensor:
    """[N, C, H, W] -> [N, C * sum(n^2)], or of [K, 5] rois [K, C * sum(n^2)]: level by level, each [C, n, n]."""
    rows = []
    for n in levels:
        if rois is not None:
            rows.append(roi_pool(input, rois, n, spatial_scale).flatten(1))
            continue
        y, x = (whole_bounds(n, size) for size in input.shape[2:])
        images = [
            torch.stack([largest(image[:, a:b, c:d]) for a, b in y for c, d in x], 1).flatten() for image in input
        ]
        empty = input.new_zeros(0, input.shape[1] * n * n) + 0 * input.sum()
        rows.append(torch.stack(images) if images else empty)
    return torch.cat(rows, 1)
