"""Upsampling by whole factors, each pixel repeated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fastvision import reference
from fastvision._library import call, with_reference
from fastvision.ops._autocast import without_autocast
from fastvision.ops._layout import is_channels_last
from fastvision.ops.upsample._whole_factor import register, serves, sides

# numbers of an output in channels_last that torch has written before an op of ours is called
_FEW = 1 << 16

if hasattr(torch._C._nn, "upsample_nearest2d"):  # what interpolate calls, 1 us later
    _nearest: Any = torch._C._nn.upsample_nearest2d

    def _interpolate(input: Tensor, size: tuple[int, int]) -> Tensor:
        output: Tensor = _nearest(input, size, None)
        return output
else:

    def _interpolate(input: Tensor, size: tuple[int, int]) -> Tensor:
        return torch.nn.functional.interpolate(input, size, mode="nearest")


@with_reference(reference.upsample.nearest_upsample)
def nearest_upsample(input: Tensor, factor: int) -> Tensor:
    """Every pixel becomes ``factor x factor`` copies of itself.

    Args:
        input: ``[N, C, H, W]``, floating; channels_last in gives channels_last out.
        factor: at least 1.

    Shapes:
        ``[N, C, H, W] -> [N, C, factor H, factor W]``. Differentiable, any number of times.

    Raises:
        ValueError: a factor below 1, an input that is not ``[N, C, H, W]`` and floating.

    Complexity:
        ``O(N C H W factor^2)``.

    Reference:
        torch's ``interpolate(mode="nearest")``, which runs on a GPU and inside transforms.
    """
    reference.upsample.check_factor("nearest_upsample", input, factor)
    if serves(input) and (is_compiling() or not _is_small(input, factor)):
        return call("nearest_upsample", input, factor)
    if input.numel() == 0:
        return reference.upsample.nearest_upsample(input, factor)
    with without_autocast(input):  # or it would be float32
        return _interpolate(input, sides(input, factor))


def _is_small(input: Tensor, factor: int) -> bool:
    return input.numel() * factor * factor < _FEW and is_channels_last(input)


def _by_torch(input: Tensor, factor: int) -> Tensor:
    output: Tensor = torch.ops.aten.upsample_nearest2d(input, sides(input, factor))
    return output


def _backward_by_torch(grad: Tensor, factor: int) -> Tensor:
    size = [*grad.shape[:2], grad.shape[2] // factor, grad.shape[3] // factor]
    output: Tensor = torch.ops.aten.upsample_nearest2d_backward(grad, grad.shape[2:], size)
    return output


register("nearest_upsample", _by_torch, _backward_by_torch)
