"""What the cases of the family share."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision.testing.case import Sample, Work, nbytes


def odd_rois(device: torch.device) -> Tensor:
    """[9, 5]: outside, empty, inverted, larger than the map, NaN and infinite, on two images."""
    nan, inf = float("nan"), float("inf")
    rows = [
        [0, -50, -50, -40, -40],
        [1, 5, 5, 5, 5],
        [0, 20, 20, 10, 8],
        [1, -30, -30, 400, 400],
        [0, 110, 90, 130, 110],
        [0, nan, 1, 9, 9],
        [1, 1, 1, inf, 9],
        [0, -inf, 1, 9, 9],
        [1, 1, 1, 9, 9],
    ]
    return torch.tensor(rows, device=device)


def pooling_work(sample: Sample) -> Work:
    """Features read once, bins written once."""
    features, rois, size = sample.args[:3]
    bins = size * size if isinstance(size, int) else size[0] * size[1]
    count = len(rois) if isinstance(rois, Tensor) else sum(map(len, rois))
    out = count * features.shape[1] * bins
    return Work(nbytes(features) + out * features.element_size(), out * 32)


def position_sensitive_work(sample: Sample) -> Work:
    """Features read once, bins written once."""
    features, rois = sample.args[:2]
    out = len(rois) * features.shape[1]
    return Work(nbytes(features) + out * features.element_size(), out * 32)
