"""Calls of ops inside the transforms of ``torch.func``, and with the dual numbers of forward-mode differentiation.

What ``torch.library.register_autograd`` registers serves neither: to ``torch.func.grad`` it is an error, and dual
numbers come out without their tangents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.forward_ad import unpack_dual


@dataclass(frozen=True)
class _Op:
    """An overload, with what :func:`function_of` was told of it."""

    overload: Any
    backward: Callable[..., Any]
    setup_context: Callable[..., Any]
    images: Sequence[int]

    @cached_property
    def lists(self) -> list[bool]:
        """Which arguments are lists of tensors."""
        return ["List[Tensor]" in str(argument.type) for argument in self.overload._schema.arguments]

    @cached_property
    def returned(self) -> list[str]:
        return [str(value.type) for value in self.overload._schema.returns]

    @property
    def returns_list(self) -> bool:
        return self.returned == ["List[Tensor]"]


@dataclass(frozen=True)
class _Call:
    """A Function looks into no argument that is a list: it is given all that is in them."""

    op: _Op
    lengths: Sequence[int | None]  # of the arguments that are lists of tensors

    def flat(self, args: Iterable[Any]) -> list[Any]:
        flat: list[Any] = []
        for arg, length in zip(args, self.lengths, strict=True):
            if length is None:
                flat.append(arg)
            else:
                flat += [None] * length if arg is None else arg
        return flat

    def nested(self, flat: Iterable[Any]) -> list[Any]:
        items = iter(flat)
        return [next(items) if length is None else [next(items) for _ in range(length)] for length in self.lengths]


def function_of(
    overload: Any, backward: Callable[..., Any], setup_context: Callable[..., Any], images: Sequence[int] = ()
) -> Callable[..., Any]:
    """``overload(*args)`` with the gradient that ``register_autograd`` makes of the same two functions.

    Its derivative in forward mode is that of its gradient, which is linear in what it is given.

    images: the arguments that have an image along their first axis, as all outputs then do. ``vmap`` of these alone is
    one call for the images of all samples; of others, one for each sample.
    """
    op = _Op(overload, backward, setup_context, images)

    def apply(*args: Any) -> Any:
        call = _Call(op, [len(arg) if is_list else None for arg, is_list in zip(args, op.lists, strict=True)])
        output = _Transformable.apply(call, *call.flat(args))
        return list(output) if op.returns_list else output

    return apply


class _Transformable(Function):
    @staticmethod
    def forward(call: _Call, *flat: Any) -> Any:
        output = call.op.overload(*call.nested(flat))
        return tuple(output) if call.op.returns_list else output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, *flat = inputs
        ctx.call.op.setup_context(ctx, tuple(ctx.call.nested(flat)), output)
        marked = getattr(ctx, "non_differentiable", None) or ()
        ctx.has_derivative = [all(one is not other for other in marked) for one in _as_tuple(output)]
        ctx.others = [None if isinstance(arg, Tensor) else (arg,) for arg in flat]
        ctx.save_for_forward(*[arg for arg in flat if isinstance(arg, Tensor)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        call, needed = ctx.call, ctx.needs_input_grad
        ctx.needs_input_grad = tuple(call.nested(needed[1:]))
        try:
            gradients = call.op.backward(ctx, *([list(grads)] if call.op.returns_list else grads))
        finally:
            ctx.needs_input_grad = needed
        return None, *call.flat(_as_tuple(gradients))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        saved = (unpack_dual(tensor).primal for tensor in ctx.saved_tensors)  # type: ignore[no-untyped-call]
        args = [next(saved) if other is None else other[0] for other in ctx.others]
        derivatives = _push_forward(partial(_Transformable.apply, ctx.call), args, tangents, ctx.has_derivative)
        return derivatives[0] if len(derivatives) == 1 else derivatives

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[Any], call: _Call, *flat: Any) -> Any:
        dims = [dim if isinstance(arg, Tensor) else None for arg, dim in zip(flat, in_dims[1:], strict=True)]
        args = [arg if dim is None else arg.movedim(dim, 0) for arg, dim in zip(flat, dims, strict=True)]
        batched = [at for at, dim in enumerate(dims) if dim is not None]
        run = _all_at_once if set(batched) <= set(call.op.images) else _one_by_one
        outputs = run(partial(_Transformable.apply, call), args, batched, call.op.images, info.batch_size)
        return (outputs[0], 0) if call.op.returned == ["Tensor"] else (outputs, (0,) * len(outputs))


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _all_at_once(
    function: Callable[..., Any], args: Sequence[Any], batched: Sequence[int], images: Sequence[int], samples: int
) -> tuple[Tensor, ...]:
    """The images of all samples as those of one. batched: arguments that have the samples along their first axis."""
    given = list(args)
    for at in images:
        if isinstance(args[at], Tensor):
            every = args[at] if at in batched else args[at].expand(samples, *args[at].shape)
            given[at] = every.flatten(0, 1)
    count = args[batched[0]].shape[1]
    return tuple(output.unflatten(0, (samples, count)) for output in _as_tuple(function(*given)))


def _one_by_one(
    function: Callable[..., Any], args: Sequence[Any], batched: Sequence[int], _: Sequence[int], samples: int
) -> tuple[Tensor, ...]:
    def run(sample: int) -> tuple[Tensor, ...]:
        return _as_tuple(function(*[arg[sample] if at in batched else arg for at, arg in enumerate(args)]))

    if samples == 0:  # the shapes of what one of zeros has
        args = [arg.new_zeros(1, *arg.shape[1:]) if at in batched else arg for at, arg in enumerate(args)]
        return tuple(output.new_empty(0, *output.shape) for output in run(0))
    return tuple(torch.stack(parts) for parts in zip(*map(run, range(samples)), strict=True))


def _push_forward(
    function: Callable[..., Any], args: Sequence[Any], tangents: Sequence[Tensor | None], wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The derivatives of the ``wanted`` outputs of ``function(*args)`` along ``tangents``.

    A pull-back is linear in the gradient it is given; pulled back itself it pushes tangents forward.
    """
    moving = [at for at, tangent in enumerate(tangents) if tangent is not None]

    def of_moving(*values: Tensor) -> tuple[Tensor, ...]:
        given = list(args)
        for at, value in zip(moving, values, strict=True):
            given[at] = value
        return tuple(output for output, wants in zip(_as_tuple(function(*given)), wanted, strict=True) if wants)

    outputs, pull_back = torch.func.vjp(of_moving, *[args[at] for at in moving])[:2]
    push = torch.func.vjp(pull_back, tuple(torch.zeros_like(output) for output in outputs))[1]
    pushed = iter(push(tuple(tangents[at] for at in moving))[0])
    return tuple(next(pushed) if wants else None for wants in wanted)
