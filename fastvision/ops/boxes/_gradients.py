"""Gradients of ops of two tensors whose backward op takes the same arguments, gradient first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvision._library import call, once_differentiable, register_autograd


def empty_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Contiguous, whatever the strides of ``tensor``."""
    return tensor.new_empty(tensor.shape, dtype=dtype)


def register_gradients(name: str) -> None:
    """``fastvision::name`` gets its gradient from ``fastvision::name_backward``, which has none itself."""

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.constants = inputs[2:]

    def backward(ctx: Any, grad: Tensor) -> Any:
        grads = call(f"{name}_backward", grad, *ctx.saved_tensors, *ctx.constants)
        return *grads, *(None for _ in ctx.constants)

    register_autograd(name, backward, save)
    once_differentiable(f"{name}_backward")
