"""Who computes a transposed convolution."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fastvision._eager import are_transforms_active
from fastvision.ops._memoized import memoized
from fastvision.ops.upsample.kernel_choice import cpu, cuda
from fastvision.ops.upsample.kernel_choice.gradients import GradientPlan, choose_gradients
from fastvision.ops.upsample.kernel_choice.layer import NATIVE_HALF, Layer, parts
from fastvision.ops.upsample.kernel_choice.light import is_light, is_worth_a_function
from fastvision.reference.upsample.conv_transpose2d import Pair
from fastvision.reference.upsample.pair import to_pair

__all__ = [
    "NATIVE_HALF",
    "GradientPlan",
    "Kernel",
    "Layer",
    "Plan",
    "choose_gradients",
    "choose_kernel",
    "gradient_plan",
    "parts",
    "plan",
    "remembered_gradient_plan",
    "remembered_plan",
]

Kernel = Literal["product", "torch", "fastvision"]
_FEW_PRODUCTS = 10_000_000  # that a GPU does in less time than three calls take to launch


def choose_kernel(layer: Layer) -> Kernel:
    """Who computes a transposed convolution fastest, by its shape: a matrix product, torch or a kernel of ours."""
    # one tap an output: the weights are read once, which is all there is to do
    product = (layer.pixels, layer.groups) == (1, 1) and layer.plain
    if product and not (layer.cuda and layer.multiplications < _FEW_PRODUCTS):
        return "product"
    if layer.cuda:
        ours = cuda.can(layer) and cuda.pays(layer)
    elif layer.dtype in (torch.float16, torch.bfloat16):
        # oneDNN multiplies what we would widen to float32
        ours = layer.depthwise or layer.dtype not in NATIVE_HALF
    else:
        ours = cpu.pays(layer)
    return "fastvision" if ours else "torch"


class Plan(NamedTuple):
    """Who computes a layer, and how it is laid out, as our kernel is told.

    geometry: stride, padding, output_padding and dilation, each of rows and of columns, and the groups.
    always_torch: whatever autocast makes of the dtype; float64, which it leaves alone, is not asked.
    own_gradients: of a layer that is torch's, kernels of ours compute some gradient, or turn what torch computes it of,
        and pay for a Function in Python.
    torch_trains: a layer that is ours, of float32 on a CPU and without an activation, is torch's where a gradient is
        wanted: torch computes that, and our forward would not pay for a Function in Python. Compiled code has none.
    """

    kernel: Kernel
    geometry: tuple[int, ...]
    always_torch: bool
    own_gradients: bool
    torch_trains: bool = False


def plan(
    input: Tensor,
    weight: Tensor,
    stride: int | Pair,
    padding: int | Pair,
    output_padding: int | Pair,
    groups: int,
    dilation: int | Pair,
) -> Plan:
    """:func:`choose_kernel` of an input and a weight of these sizes."""
    pairs = to_pair(stride), to_pair(padding), to_pair(output_padding), to_pair(dilation)
    last = input.dim() == 4 and _is_channels_last(input.shape, input.stride())
    layer = Layer(input.shape, weight.shape, *pairs[:3], groups, pairs[3], input.dtype, last, input.is_cuda)
    geometry = (*(number for pair in pairs for number in pair), groups)
    if not layer.sound:
        return Plan("fastvision", geometry, False, False)
    kernel = choose_kernel(layer)
    cast = (choose_kernel(layer._replace(dtype=dtype)) for dtype in (torch.float16, torch.bfloat16))
    always = kernel == "torch" and layer.dtype != torch.float64 and all(other == "torch" for other in cast)
    light = is_light(layer)
    if light and kernel == "fastvision" and layer.dtype.itemsize > 2 and _is_inside_transforms():
        kernel = "torch"
    own_gradients = kernel == "torch" and not light and any(choose_gradients(layer))
    return Plan(kernel, geometry, always, own_gradients, _torch_trains(layer, kernel))


def _torch_trains(layer: Layer, kernel: Kernel) -> bool:
    ours = kernel == "fastvision" and layer.dtype == torch.float32 and not layer.cuda
    if not ours or is_compiling():
        return False
    return not is_worth_a_function(layer) and not any(choose_gradients(layer))


def _is_inside_transforms() -> bool:
    """Of torch.func, which see into an op of ours through a Function in Python alone; nothing is remembered there."""
    return not is_compiling() and are_transforms_active()


def _is_channels_last(size: torch.Size, strides: tuple[int, ...]) -> bool:
    """As torch's convolution reads it: one channel is dense both ways, and its stride decides."""
    dense = 1
    for d in (1, 3, 2, 0):
        if size[d] != 1 and strides[d] != dense:
            return False
        dense *= size[d]
    return strides[1] == 1


def gradient_plan(grad: Tensor, input: Tensor, weight: Tensor, geometry: tuple[int, ...]) -> GradientPlan:
    """:func:`choose_gradients` of tensors of these sizes. geometry: that of a :class:`Plan`."""
    stride, padding, output_padding, dilation, groups = parts(geometry)
    last = _is_channels_last(grad.shape, grad.stride())
    where = (stride, padding, output_padding, groups, dilation)
    layer = Layer(input.shape, weight.shape, *where, input.dtype, last, input.is_cuda)
    if is_light(layer) and _is_inside_transforms():
        return GradientPlan(False, False)
    return choose_gradients(layer)


remembered_plan = memoized(plan, 1024)
remembered_gradient_plan = memoized(gradient_plan, 1024)
