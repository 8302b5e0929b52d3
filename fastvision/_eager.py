"""Eager calls of ops without the Python that ``torch.library.register_autograd`` puts around each of them.

What it registers serves every way there is into an op. A plain eager call knows more: that nothing wants a gradient, or
that an ``autograd.Function`` will do, and saves 10 to 20 us without gradients, 50 to 200 us with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.autograd import Function, forward_ad
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
_AVAILABLE = all(hasattr(torch._C, name) for name in _PRIVATE) and hasattr(forward_ad, "_current_level")
if _AVAILABLE:
    # looked up once: a call passes here several times
    _any_requires_grad: Any = torch._C._any_requires_grad
    _BelowAutograd: Any = torch._C._AutoDispatchBelowAutograd
    _is_included: Any = torch._C._dispatch_tls_is_dispatch_key_included
    _is_function_mode_enabled: Any = torch._C._is_torch_function_mode_enabled
    _is_tracing: Any = torch._C._is_tracing
    _VMAP_MODE: Any = torch._C._parse_dispatch_key("VmapMode")
else:

    def _any_requires_grad(*args: Any) -> bool:
        return any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def _never() -> bool:
    return False


# of torch.func
_top_interpreter: Callable[[], Any] = getattr(
    getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None
)
are_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", _never)


def is_forward_mode() -> bool:
    """Whether dual numbers are about."""
    return getattr(forward_ad, "_current_level", -1) >= 0


def is_plain() -> bool:
    """Whether a call is all it looks like: no graph is traced, no mode or transform looks on.

    The tensors of a transform do not say what those inside them require, dual numbers would lose their tangents, and
    VmapMode is that of ``is_grads_batched``.
    """
    return _AVAILABLE and not (
        is_compiling()
        or _is_tracing()
        or are_transforms_active()
        or forward_ad._current_level >= 0
        or _is_function_mode_enabled()
        or _is_included(_VMAP_MODE)
    )


def is_traced() -> bool:
    """Whether an op is to be called as it is registered: by torch.jit.trace, or for functionalize."""
    if _AVAILABLE and _is_tracing():
        return True
    interpreter = _top_interpreter() if are_transforms_active() else None
    return interpreter is not None and "Functionalize" in str(interpreter.key())


def is_transformed() -> bool:
    """Whether transforms of ``torch.func`` or dual numbers are about."""
    return are_transforms_active() or is_forward_mode()


def wants_gradient(args: Sequence[Any]) -> bool:
    return is_grad_enabled() and bool(_any_requires_grad(*args))


def without_gradient(op: Any, args: Sequence[Any]) -> Any:
    with _BelowAutograd():
        return op(*args)


def inner(overload: Any) -> Callable[..., Any]:
    """What an overload calls, and it does nothing else."""
    return getattr(overload, "_op", overload)  # type: ignore[no-any-return]


def function_of(op: Any, backward: Callable[..., Any], setup_context: Callable[..., Any]) -> Callable[..., Any]:
    """``op(*args)`` with the gradient that ``register_autograd`` makes of the same two functions."""
    schema = op._schema
    if any("List[Tensor]" in str(returned.type) for returned in schema.returns):
        return op  # type: ignore[no-any-return]  # a Function gives no gradient to what lies in lists
    run = inner(op)

    def forward(ctx: Any, *args: Any) -> Any:
        output = without_gradient(run, args)
        setup_context(ctx, args, output)
        return output

    types = [str(argument.type) for argument in schema.arguments]
    if any("List[Tensor]" in type for type in types):
        lists = [at for at, type in enumerate(types) if "List[Tensor]" in type]
        alone = [at for at, type in enumerate(types) if type in ("Tensor", "Optional[Tensor]")]
        return _function_of_lists(schema.name, forward, backward, lists, alone)
    return _function(schema.name, forward, backward).apply  # type: ignore[no-any-return]


def _function(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Any:
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"Eager_{name.split(':')[-1]}", (Function,), methods)


def _function_of_lists(
    name: str, forward: Callable[..., Any], backward: Callable[..., Any], lists: Sequence[int], alone: Sequence[int]
) -> Callable[..., Any]:
    """A Function does not look into the arguments that are ``lists`` of tensors; others are tensors ``alone``.

    It is given beside them, one by one, what wants a gradient: each tensor costs it 1 us and more.
    """

    def given_forward(ctx: Any, args: Sequence[Any], needed: Sequence[Any], *_: Tensor) -> Any:
        ctx.needs_input_grad = needed
        return forward(ctx, *args)

    def given_backward(ctx: Any, *grads: Tensor) -> Any:
        gradients, needed = backward(ctx, *grads), ctx.needs_input_grad
        given: list[Tensor | None] = [None, None]
        for at in lists:
            given += [gradient for gradient, needs in zip(gradients[at], needed[at], strict=True) if needs]
        given += [gradients[at] for at in alone if needed[at]]
        return tuple(given)

    function = _function(name, given_forward, given_backward)

    def apply(*args: Any) -> Any:
        needed: list[Any] = [False] * len(args)
        given: list[Tensor] = []
        for at in lists:
            needed[at] = [tensor.requires_grad for tensor in args[at]]
            given += [tensor for tensor in args[at] if tensor.requires_grad]
        for at in alone:
            tensor = args[at]
            if tensor is not None and tensor.requires_grad:
                needed[at] = True
                given.append(tensor)
        return function.apply(args, needed, *given)

    return apply
