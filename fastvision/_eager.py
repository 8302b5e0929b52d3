"""Eager calls of ops without the Python that ``torch.library.register_autograd`` puts around each of them.

What it registers is for every way there is into an op. An eager call knows more: that nothing wants a gradient, or that
an ``autograd.Function`` will do, and saves 10 to 20 us a call without gradients, 50 to 200 us with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# as torch/_library/autograd.py; neither is promised to stay
any_requires_grad: Any = getattr(torch._C, "_any_requires_grad", None)
below_autograd: Any = getattr(torch._C, "_AutoDispatchBelowAutograd", None)
AVAILABLE = any_requires_grad is not None and below_autograd is not None


def function_of(op: Any, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> Callable[..., Any]:
    """``op(*args)`` with the gradient that ``register_autograd`` makes of the same two functions."""

    def forward(ctx: Any, *args: Any) -> Any:
        with below_autograd():
            output = op(*args)
            setup_context(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"Eager_{op}", (Function,), methods).apply  # type: ignore[attr-defined, no-any-return]


def function_of_lists(op: Any, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> Callable[..., Any]:
    """The same where some arguments are lists of tensors, which a Function does not look into."""

    def forward(ctx: Any, lengths: Sequence[int | None], *flat: Any) -> Any:
        ctx.lengths, args = lengths, _nested(lengths, flat)
        with below_autograd():
            output = op(*args)
            setup_context(ctx, args, output)
        return output

    def nested_backward(ctx: Any, *grads: Tensor) -> Any:
        needed = ctx.needs_input_grad
        try:
            ctx.needs_input_grad = _nested(ctx.lengths, needed[1:])
            gradients = backward(ctx, *grads)
        finally:
            ctx.needs_input_grad = needed
        flat = [None]
        for length, gradient in zip(ctx.lengths, gradients, strict=True):
            flat.extend([gradient] if length is None else [None] * length if gradient is None else gradient)
        return tuple(flat)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(nested_backward)}
    function: Any = type(f"Eager_{op}", (Function,), methods)

    def apply(*args: Any) -> Any:
        lengths = tuple(len(a) if isinstance(a, list | tuple) and all(map(_is_tensor, a)) else None for a in args)
        flat = [a for arg, n in zip(args, lengths, strict=True) for a in ([arg] if n is None else arg)]
        return function.apply(lengths, *flat)

    return apply


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _nested(lengths: Sequence[int | None], flat: Sequence[Any]) -> tuple[Any, ...]:
    args: list[Any] = []
    at = 0
    for length in lengths:
        args.append(flat[at] if length is None else list(flat[at : at + length]))
        at += 1 if length is None else length
    return tuple(args)
