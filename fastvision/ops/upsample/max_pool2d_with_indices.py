"""Max pooling that remembers where the largest values were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvision import _eager, reference
from fastvision._library import call, register_autograd, register_fake, register_torchs, with_reference

_FEW = 1 << 12  # numbers, which torch has pooled before an op of ours is called


@with_reference(reference.upsample.max_pool2d_with_indices)
def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """The largest value in each window, and its place: the switches that :func:`max_unpool2d` takes.

    torch's own op under the name of its pair, ``return_indices`` left out because they are always returned. In eager
    calls on the CPU, contiguous planes in float32 and float64 are pooled by a kernel of ours, without padding or
    ceil_mode, unless a row has fewer windows than a window has rows or columns.

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``; channels_last in gives channels_last out.
        kernel_size: ``(height, width)`` of a window, or one number for both; so are the arguments below.
        stride: from one window to the next; ``kernel_size`` if None.
        padding: minus infinity on either side, at most half of ``kernel_size``.
        dilation: from one element of a window to the next.
        ceil_mode: a last window may reach over the edge.

    Shapes:
        ``[N, C, H, W] -> [N, C, P, Q], [N, C, P, Q]``: values, and int64 indices into the flat input plane. NaN is
        larger than any number, and of equal values the first counts. Differentiable in ``input``.

    Raises:
        RuntimeError: torch's own, for sizes that do not fit.

    Complexity:
        ``O(N C P Q k^2)`` for windows of ``k x k``.

    Reference:
        ``torch.nn.functional.max_pool2d_with_indices``; the switches of Zeiler and Fergus 2014, "Visualizing and
        Understanding Convolutional Networks", section 2.1.
    """
    geometry = _geometry(input, kernel_size, stride, padding, dilation, ceil_mode)
    if geometry is not None:
        return call("max_pool2d_with_indices", input, geometry)
    pool: Any = F.max_pool2d_with_indices  # whose stubs know fewer kinds of sizes than it does
    return pool(input, kernel_size, stride, padding, dilation, ceil_mode)


def _geometry(
    input: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> list[int] | None:
    """Kernel, stride and dilation of a layer that is ours; None: it is torch's, as is what fits nowhere."""
    ours = input.is_cpu and input.dim() == 4 and input.dtype in (torch.float32, torch.float64)
    if not ours or ceil_mode or not _eager.is_plain() or input.numel() < _FEW or not input.is_contiguous():
        return None
    pairs = [_pair(size) for size in (kernel_size, kernel_size if stride is None else stride, dilation, padding)]
    numbers = [number for pair in pairs for number in pair]
    if any(len(pair) != 2 for pair in pairs) or any(type(number) is not int for number in numbers):
        return None
    *numbers, above, left = numbers
    if min(numbers) < 1 or above != 0 or left != 0:
        return None
    fits = all(numbers[4 + d] * (numbers[d] - 1) < input.shape[2 + d] for d in range(2))
    if not fits or input.shape[2] * input.shape[3] >= 1 << 31:
        return None
    return numbers if _sides(input, numbers)[1] >= max(numbers[:2]) else None  # short rows of large windows


def _pair(size: Any) -> Sequence[Any]:
    return size if isinstance(size, (tuple, list)) else (size, size)


def _sides(input: Tensor, geometry: Sequence[int]) -> list[int]:
    return [(input.shape[2 + d] - geometry[4 + d] * (geometry[d] - 1) - 1) // geometry[2 + d] + 1 for d in range(2)]


@register_fake("max_pool2d_with_indices")
def _(input: Tensor, geometry: Sequence[int]) -> tuple[Tensor, Tensor]:
    size = [*input.shape[:2], *_sides(input, geometry)]
    return input.new_empty(size), input.new_empty(size, dtype=torch.int64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, ctx.geometry = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # of the second: zeros that nobody reads
    ctx.sides = input.shape[2:]
    ctx.apart = all(ctx.geometry[2 + d] > ctx.geometry[4 + d] * (ctx.geometry[d] - 1) for d in range(2))
    ctx.save_for_backward(output[1], *([] if ctx.apart else [input]))


def _backward(ctx: Any, grad: Tensor | None, _: None) -> Any:
    if grad is None:
        return None, None
    indices, *input = ctx.saved_tensors
    if ctx.apart:  # no two windows have a pixel in common
        return call("max_unpool2d", grad, indices, *ctx.sides), None
    kernel, stride, dilation = ctx.geometry[:2], ctx.geometry[2:4], ctx.geometry[4:]
    add = torch.ops.aten.max_pool2d_with_indices_backward
    return add(grad, input[0], kernel, stride, [0, 0], dilation, False, indices), None


register_autograd("max_pool2d_with_indices", _backward, _save)


def _by_torch(input: Tensor, geometry: list[int]) -> tuple[Tensor, Tensor]:
    kernel, stride, dilation = geometry[:2], geometry[2:4], geometry[4:]
    values, indices = torch.ops.aten.max_pool2d_with_indices(input.contiguous(), kernel, stride, [0, 0], dilation)
    return values, indices


register_torchs("max_pool2d_with_indices", _by_torch)
