"""Whether autocast is on, asked as cheaply as torch can be."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

# one question without arguments where torch has it: naming the device costs 1 % of a layer of 0.2 ms
is_any_autocast_enabled = getattr(
    torch._C,
    "_is_any_autocast_enabled",
    lambda: torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
)


def without_autocast(input: Tensor) -> AbstractContextManager[Any]:
    """For ops that move numbers rather than compute with them."""
    if not is_compiling() and not is_any_autocast_enabled():
        return nullcontext()  # entering takes 4 us
    # as conv_transpose2d asks for it; whether a device knows autocast is a question torch 2.11 cannot compile
    return torch.autocast("cuda" if input.is_cuda else "cpu", enabled=False)
