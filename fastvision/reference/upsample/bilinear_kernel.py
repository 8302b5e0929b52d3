"""Bilinear kernels in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def bilinear_kernel(
    channels: int,
    factor: int,
    *,
    groups: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """-> [channels, channels / groups, k, k], an element at a time"""
    size = 2 * factor - factor % 2
    centre = factor - 1 if size % 2 == 1 else factor - 0.5
    inputs = 1 if groups is None else channels // groups
    weight = torch.zeros(channels, inputs, size, size, dtype=torch.float64)
    for channel in range(channels):
        for i in range(size):
            for j in range(size):
                weight[channel, channel % inputs, i, j] = (1 - abs(i - centre) / factor) * (
                    1 - abs(j - centre) / factor
                )
    return weight.to(device, torch.get_default_dtype() if dtype is None else dtype)
