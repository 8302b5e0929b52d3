"""The gradients of a transposed convolution, which are linear in both of what they are made of.

For an output ``Y = conv_transpose2d(X, W)`` they are ``X' = input_gradient(G, W)``, an ordinary convolution, and ``W' =
weight_gradient(G, X)``; each is differentiated by the other two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvision import _eager
from fastvision._library import call, register_autograd, register_fake, register_torchs
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.ops.upsample._to_layout import to_layout
from fastvision.ops.upsample.kernel_choice import NATIVE_HALF, gradient_plan, parts, remembered_gradient_plan
from fastvision.reference.upsample.conv_transpose2d import Pair

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def conv_transpose2d_gradients(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: Sequence[int], needed: tuple[bool, bool, bool]
) -> Gradients:
    """Of input, weight and bias, those ``needed``, by kernels of ours or torch's, whichever ``gradient_plan`` names."""
    find = gradient_plan if torch.compiler.is_compiling() else remembered_gradient_plan
    plan = find(grad, input, weight, tuple(geometry))
    to_input = to_weight = to_bias = None
    if needed[0] and plan.input:
        to_input = call("conv_transpose2d_input_gradient", grad, weight, geometry, is_channels_last(input))
    if needed[1] and plan.weight:
        to_weight = call("conv_transpose2d_weight_gradient", grad, input, geometry)
    left = (needed[0] and to_input is None, needed[1] and to_weight is None, needed[2])
    if left == (False, False, True):
        to_bias = grad.sum((0, 2, 3))
    elif any(left):
        by_torch = (_by_torch_turned if plan.turned else _by_torch)(grad, input, weight, geometry, left)
        to_input = by_torch[0] if left[0] else to_input
        to_weight = by_torch[1] if left[1] else to_weight
        to_bias = by_torch[2]
    return to_input, to_weight, to_bias


def _by_torch(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: Sequence[int], needed: tuple[bool, bool, bool]
) -> Gradients:
    stride, padding, output_padding, dilation, groups = parts(geometry)
    dtype, widened = grad.dtype, grad.dtype.itemsize == 2 and not grad.is_cuda and grad.dtype not in NATIVE_HALF
    if widened:
        grad, input, weight = grad.float(), input.float(), weight.float()
    gradients: Gradients = torch.ops.aten.convolution_backward(
        grad, input, weight, [grad.shape[1]], stride, padding, dilation, True, output_padding, groups, needed
    )
    if widened:
        gradients = tuple(None if g is None else g.to(dtype) for g in gradients)  # type: ignore[assignment]
    return gradients


def _by_torch_turned(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: Sequence[int], needed: tuple[bool, bool, bool]
) -> Gradients:
    """Of planes, in channels_last; not of batches of tensors, as vmap has them, which say nothing of layouts."""
    if not (_eager.is_plain() or (torch.compiler.is_compiling() and not _eager.is_transformed())):
        return _by_torch(grad, input, weight, geometry, needed)
    last = torch.channels_last
    turned = to_layout(input, True) if needed[1] else torch.empty_like(input, memory_format=last)  # for its size alone
    to_input, to_weight, to_bias = _by_torch(to_layout(grad, True), turned, weight, geometry, needed)
    to_input = None if to_input is None else to_layout(to_input, is_channels_last(input))
    return to_input, None if to_weight is None else to_layout(to_weight, False), to_bias


def _input_size(grad: Tensor, weight: Tensor, geometry: Sequence[int]) -> list[int]:
    stride, _, _, dilation, _ = parts(geometry)
    return [grad.shape[0], weight.shape[0], *_sides(grad, weight, geometry, stride, dilation)]


def _weight_size(grad: Tensor, input: Tensor, geometry: Sequence[int]) -> list[int]:
    stride, _, _, dilation, groups = parts(geometry)
    return [input.shape[1], grad.shape[1] // groups, *_sides(grad, input, geometry, dilation, stride)]


def _sides(grad: Tensor, known: Tensor, geometry: Sequence[int], step: Pair, known_step: Pair) -> list[int]:
    """Height and width of the input or the weight, from those of the other, each with its steps in the output."""
    _, padding, output_padding, _, _ = parts(geometry)
    return [
        (grad.shape[2 + d] - 1 - output_padding[d] + 2 * padding[d] - known_step[d] * (known.shape[2 + d] - 1))
        // step[d]
        + 1
        for d in range(2)
    ]


@register_fake("conv_transpose2d_input_gradient")
def _(grad: Tensor, weight: Tensor, geometry: Sequence[int], channels_last: bool) -> Tensor:
    return empty_map(grad, _input_size(grad, weight, geometry), channels_last)


@register_fake("conv_transpose2d_weight_gradient")
def _(grad: Tensor, input: Tensor, geometry: Sequence[int]) -> Tensor:
    return grad.new_empty(_weight_size(grad, input, geometry))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, other, ctx.geometry = inputs[:3]
    ctx.save_for_backward(grad, other)


def _input_gradient_backward(ctx: Any, to_output: Tensor) -> Any:
    grad, weight = ctx.saved_tensors
    to_grad = to_weight = None
    if ctx.needs_input_grad[0]:
        to_grad = call("conv_transpose2d", to_output, weight, None, ctx.geometry, 1.0)
    if ctx.needs_input_grad[1]:
        to_weight = call("conv_transpose2d_weight_gradient", grad, to_output, ctx.geometry)
    return to_grad, to_weight, None, None


def _weight_gradient_backward(ctx: Any, to_output: Tensor) -> Any:
    grad, input = ctx.saved_tensors
    to_grad = to_input = None
    if ctx.needs_input_grad[0]:
        to_grad = call("conv_transpose2d", input, to_output, None, ctx.geometry, 1.0)
    if ctx.needs_input_grad[1]:
        to_input = call("conv_transpose2d_input_gradient", grad, to_output, ctx.geometry, is_channels_last(input))
    return to_grad, to_input, None


register_autograd("conv_transpose2d_input_gradient", _input_gradient_backward, _save, images=(0,))
register_autograd("conv_transpose2d_weight_gradient", _weight_gradient_backward, _save)


def _input_gradient_by_torch(grad: Tensor, weight: Tensor, geometry: Sequence[int], channels_last: bool) -> Tensor:
    input = grad.new_empty(()).expand(_input_size(grad, weight, geometry))  # of which only the size is read
    to_input = _by_torch(grad, input, weight, geometry, (True, False, False))[0]
    assert to_input is not None
    return to_input.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _weight_gradient_by_torch(grad: Tensor, input: Tensor, geometry: Sequence[int]) -> Tensor:
    weight = grad.new_empty(()).expand(_weight_size(grad, input, geometry))
    to_weight = _by_torch(grad, input, weight, geometry, (False, True, False))[1]
    assert to_weight is not None
    return to_weight.contiguous()


register_torchs("conv_transpose2d_input_gradient", _input_gradient_by_torch)
register_torchs("conv_transpose2d_weight_gradient", _weight_gradient_by_torch)
