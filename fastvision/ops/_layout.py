"""Memory formats of [N, C, H, W] tensors, as the kernels see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvision._eager import are_transforms_active


def is_channels_last(t: Tensor) -> bool:
    """Dense as N, H, W, C; a tensor that is dense both ways counts as N, C, H, W."""
    try:
        return t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    except RuntimeError:
        if not are_transforms_active():
            raise
        return False  # inside of vmap torch does not say


def empty_map(like: Tensor, size: Sequence[Any], channels_last: bool) -> Tensor:
    """Uninitialised, of the dtype and device of ``like``."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)
