"""Class ids as integers."""

from __future__ import annotations

import torch
from torch import Tensor


def class_ids(op: str, idxs: Tensor | None) -> Tensor | None:
    """Integers that are equal where ``idxs`` are: a float's bits (0.0 added, so that -0 equals 0).

    NaN equals nothing: each has the bits of another one.
    """
    if idxs is None:
        return None
    if idxs.is_complex():
        raise ValueError(f"{op}: expected idxs of a real dtype, got {idxs.dtype}")
    if idxs.is_floating_point():
        bits = (idxs.to(torch.float64) + 0.0).view(torch.int64)
        others = -1 - torch.arange(idxs.numel(), device=idxs.device).reshape(idxs.shape)
        return torch.where(idxs.isnan(), others, bits)
    return idxs.to(torch.int64)
