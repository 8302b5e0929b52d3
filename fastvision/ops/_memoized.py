"""Answers about tensors' sizes, which take as long to find as a small layer does to compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from fastvision._eager import are_transforms_active
from fastvision._library import MODULE

_F = TypeVar("_F", bound=Callable[..., object])


def memoized(function: _F, most: int) -> _F:
    """``function``, which looks at no more of tensors than dtype, kind of device, sizes and strides.

    Equal arguments, all of them positional, get the answer that it gave before: numbers that are ``int``, sequences of
    them, None, and tensors. Of others, as 2.0, and inside torch's transforms it is asked anew. Compiled code calls
    ``function`` itself; so does what is traced, if the answer is made of sizes, which are tensors there.

    Args:
        most: answers kept; one more, and all are forgotten.
    """
    if MODULE is None:
        return function
    return MODULE.memoize(function, most, (torch.Tensor, torch.nn.Parameter), are_transforms_active)
