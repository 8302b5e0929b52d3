"""Eager calls of ops without the Python that ``torch.library.register_autograd`` puts around each of them.

What it registers serves every way there is into an op. A plain eager call knows more: that nothing wants a gradient, or
that an ``autograd.Function`` will do, and saves 10 to 20 us without gradients, 50 to 200 us with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling

_PRIVATE = (  # of torch._C, and not promised to stay
    "_any_requires_grad",
    "_are_functorch_transforms_active",
    "_AutoDispatchBelowAutograd",
    "_dispatch_tls_is_dispatch_key_included",
    "_is_torch_function_mode_enabled",
    "_is_tracing",
    "_parse_dispatch_key",
)
_AVAILABLE = all(hasattr(torch._C, name) for name in _PRIVATE)
_VMAP_MODE: Any = torch._C._parse_dispatch_key("VmapMode") if _AVAILABLE else None


def is_plain() -> bool:
    """Whether a call is all it looks like: no graph is traced, no mode or transform looks on.

    The tensors of a transform do not say what those inside them require, and VmapMode is that of ``is_grads_batched``.
    """
    return _AVAILABLE and not (
        is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._dispatch_tls_is_dispatch_key_included(_VMAP_MODE)
    )


def wants_gradient(args: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and bool(torch._C._any_requires_grad(*args))


def without_gradient(op: Any, args: Sequence[Any]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def function_of(op: Any, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> Callable[..., Any]:
    """``op(*args)`` with the gradient that ``register_autograd`` makes of the same two functions."""
    schema = op._schema
    if any("List[Tensor]" in str(returned.type) for returned in schema.returns):
        return op  # type: ignore[no-any-return]  # a Function gives no gradient to what lies in lists

    def forward(ctx: Any, *args: Any) -> Any:
        output = without_gradient(op, args)
        setup_context(ctx, args, output)
        return output

    lists = ["List[Tensor]" in str(argument.type) for argument in schema.arguments]
    if any(lists):
        return _function_of_lists(schema.name, forward, backward, lists)
    return _function(schema.name, forward, backward).apply  # type: ignore[no-any-return]


def _function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"Eager_{name.split(':')[-1]}", (Function,), methods)


def _function_of_lists(
    name: str, forward: Callable[..., Any], backward: Callable[..., Any], lists: Sequence[bool]
) -> Callable[..., Any]:
    """Some arguments are ``lists`` of tensors, which a Function does not look into: it is given what lies in them."""

    def flat_forward(ctx: Any, lengths: Sequence[int | None], *flat: Any) -> Any:
        ctx.lengths = lengths
        return forward(ctx, *_nested(lengths, flat))

    def flat_backward(ctx: Any, *grads: Tensor) -> Any:
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

    function = _function(name, flat_forward, flat_backward)

    def apply(*args: Any) -> Any:
        lengths: list[int | None] = []
        flat: list[Any] = []
        for is_list, arg in zip(lists, args, strict=True):
            lengths.append(len(arg) if is_list else None)
            flat.extend(arg) if is_list else flat.append(arg)
        return function.apply(lengths, *flat)

    return apply


def _nested(lengths: Sequence[int | None], flat: Sequence[Any]) -> tuple[Any, ...]:
    args: list[Any] = []
    at = 0
    for length in lengths:
        args.append(flat[at] if length is None else list(flat[at : at + length]))
        at += 1 if length is None else length
    return tuple(args)
