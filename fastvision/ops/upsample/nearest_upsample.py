"""Upsampling by whole factors, each pixel repeated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fastvision import _eager, reference
from fastvision._library import BACKEND, LOADED, call, register_autograd, register_fake, with_reference
from fastvision.ops._autocast import without_autocast
from fastvision.ops._layout import empty_map, is_channels_last

# numbers of an output that torch has copied before an op of ours is called, in channels_last or compiled
_FEW = 1 << 16

if hasattr(torch._C._nn, "upsample_nearest2d"):  # what interpolate calls, 1 us later
    _nearest: Any = torch._C._nn.upsample_nearest2d

    def _interpolate(input: Tensor, sides: tuple[int, int]) -> Tensor:
        output: Tensor = _nearest(input, sides, None)
        return output
else:

    def _interpolate(input: Tensor, sides: tuple[int, int]) -> Tensor:
        return torch.nn.functional.interpolate(input, sides, mode="nearest")


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
    if input.numel() == 0:
        return reference.upsample.nearest_upsample(input, factor)
    compiled = is_compiling() and not _eager.is_transformed()
    few = input.numel() * factor * factor < _FEW and (compiled or is_channels_last(input))
    if few or not input.is_cpu or not (compiled or _eager.is_plain()):
        with without_autocast(input):  # or it would be float32
            return _interpolate(input, _sides(input, factor))
    return call("nearest_upsample", input, factor)


def _sides(input: Tensor, factor: int) -> tuple[int, int]:
    return input.shape[2] * factor, input.shape[3] * factor


@register_fake("nearest_upsample")
def _(input: Tensor, factor: int) -> Tensor:
    return empty_map(input, (*input.shape[:2], *_sides(input, factor)), is_channels_last(input))


@register_fake("nearest_upsample_backward")
def _(grad: Tensor, factor: int) -> Tensor:
    sides = grad.shape[2] // factor, grad.shape[3] // factor
    return empty_map(grad, (*grad.shape[:2], *sides), is_channels_last(grad))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.factor = inputs[1]


def _backward(ctx: Any, grad: Tensor) -> Any:
    return call("nearest_upsample_backward", grad, ctx.factor), None


def _double_backward(ctx: Any, grad: Tensor) -> Any:
    return call("nearest_upsample", grad, ctx.factor), None


register_autograd("nearest_upsample", _backward, _save, images=(0,))
register_autograd("nearest_upsample_backward", _double_backward, _save, images=(0,))


def _by_torch(input: Tensor, factor: int) -> Tensor:
    output: Tensor = torch.ops.aten.upsample_nearest2d(input, _sides(input, factor))
    return _in_format_of(input, output)


def _backward_by_torch(grad: Tensor, factor: int) -> Tensor:
    size = [*grad.shape[:2], grad.shape[2] // factor, grad.shape[3] // factor]
    output: Tensor = torch.ops.aten.upsample_nearest2d_backward(grad, grad.shape[2:], size)
    return _in_format_of(grad, output)


def _in_format_of(map: Tensor, output: Tensor) -> Tensor:
    """Where it is dense both ways torch decides otherwise."""
    return output.contiguous(memory_format=torch.channels_last if is_channels_last(map) else torch.contiguous_format)


if LOADED:  # on a GPU torch's own serve, the emulated one included
    _key = "CPU" if BACKEND == "emulated" else "CUDA"
    torch.library.impl("fastvision::nearest_upsample", _key)(_by_torch)
    torch.library.impl("fastvision::nearest_upsample_backward", _key)(_backward_by_torch)
