"""Upsampling by a whole factor: what its ops share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_exporting

from fastvision import _eager
from fastvision._library import call, register_autograd, register_fake, register_torchs
from fastvision.ops._layout import empty_map, is_channels_last


def serves(input: Tensor) -> bool:
    """Whether a kernel of ours does: on the CPU, compiled or not, unless torch's transforms want to see into it."""
    if not input.is_cpu:
        return False
    if is_compiling():  # a question about sizes would bind them; what is exported should need no library
        return not (is_exporting() or _eager.is_transformed())
    return _eager.is_plain() and input.numel() > 0


def sides(input: Tensor, factor: int) -> tuple[int, int]:
    """Height and width of the output."""
    return input.shape[2] * factor, input.shape[3] * factor


def register(name: str, by_torch: Callable[[Tensor, int], Tensor], backward: Callable[[Tensor, int], Tensor]) -> None:
    """Shapes and gradients of ``fastvision::name`` and ``name_backward``, each of which is the other's gradient.

    by_torch, backward: the two on a GPU, the emulated one included.
    """
    forward_op, backward_op = name, f"{name}_backward"

    @register_fake(forward_op)
    def _(input: Tensor, factor: int) -> Tensor:
        return empty_map(input, (*input.shape[:2], *sides(input, factor)), is_channels_last(input))

    @register_fake(backward_op)
    def _(grad: Tensor, factor: int) -> Tensor:
        return empty_map(grad, _size(grad, factor), is_channels_last(grad))

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.factor = inputs[1]

    for op, gradient in ((forward_op, backward_op), (backward_op, forward_op)):
        register_autograd(op, _gradient_by(gradient), save, images=(0,))
    register_torchs(forward_op, in_format(by_torch))
    register_torchs(backward_op, in_format(backward))


def _size(grad: Tensor, factor: int) -> tuple[int, ...]:
    return (*grad.shape[:2], grad.shape[2] // factor, grad.shape[3] // factor)


def _gradient_by(op: str) -> Callable[..., Any]:
    return lambda ctx, grad: (call(op, grad, ctx.factor), None)


def in_format(function: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The layout of a map that is dense both ways is planes; torch decides otherwise."""

    def formatted(map: Tensor, factor: int) -> Tensor:
        layout = torch.channels_last if is_channels_last(map) else torch.contiguous_format
        return function(map, factor).contiguous(memory_format=layout)

    return formatted
