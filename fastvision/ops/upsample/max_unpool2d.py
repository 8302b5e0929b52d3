"""Max unpooling: values back to the places they were pooled from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.jit import is_tracing  # type: ignore[attr-defined]

from fastvision import reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.ops._memoized import memoized
from fastvision.reference.upsample.max_unpool2d import unpooled_size


def _size(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    output_size: Sequence[int] | None,
) -> tuple[int, int]:
    return unpooled_size(input.shape, kernel_size, stride, padding, output_size)


_remembered_size = memoized(_size, 256)


@with_reference(reference.upsample.max_unpool2d)
def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Each value at the place that its index names, zero everywhere else: a partial inverse of max pooling.

    Where several inputs name one place, as those of overlapping windows may, the last in the order of rows and columns
    stays, on every device and in every run. The gradient of a place goes to that input alone, and the others', which
    the output does not depend on, is zero; ``torch.nn.functional.max_unpool2d`` gives it to all of them.

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``, any strides; channels_last in gives channels_last out.
        indices: int64 or int32 of the same shape: places in the flat output plane, as
            :func:`max_pool2d_with_indices` returns them.
        kernel_size: ``(height, width)`` of the windows that were pooled, or one number for both.
        stride: theirs too; ``kernel_size`` if None.
        padding: theirs too.
        output_size: the last two, or all four, sizes of the output. Several sizes pool to one, so this says which it
            was; it must be less than a stride from ``(H - 1) stride - 2 padding + kernel_size``, the size if None.

    Shapes:
        ``[N, C, H, W], [N, C, H, W] -> [N, C, H', W']`` in the dtype of ``input``. Differentiable in ``input``, any
        number of times.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an output size out of reach.
        IndexError: an index that is no place in the output plane (on the CPU; on CUDA such an input is left out).

    Complexity:
        ``O(N C (H W + H' W'))``; every byte of the output is written once if the windows did not overlap.

    Reference:
        Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 2.1; Noh et al. 2015,
        "Learning Deconvolution Network for Semantic Segmentation", section 3.2; signature of
        ``torch.nn.functional.max_unpool2d``.
    """
    # sizes that are traced are tensors
    size = _size if is_compiling() or is_tracing() else _remembered_size  # type: ignore[no-untyped-call]
    height, width = size(input, kernel_size, stride, padding, output_size)
    if input.dim() == 3 and indices.dim() == 3:
        return call("max_unpool2d", input[None], indices[None], height, width)[0]
    return call("max_unpool2d", input, indices, height, width)


class MaxUnpool2d(nn.MaxUnpool2d):
    """:func:`max_unpool2d` as a module; takes the place of ``torch.nn.MaxUnpool2d``."""

    def forward(self, input: Tensor, indices: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``[N, C, H, W], [N, C, H, W] -> [N, C, H', W']``."""
        return max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


@register_fake("max_unpool2d")
def _(input: Tensor, indices: Tensor, height: int, width: int) -> Tensor:
    return empty_map(input, [*input.shape[:2], height, width], is_channels_last(input))


@register_fake("max_unpool2d_backward")
def _(grad: Tensor, indices: Tensor) -> Tensor:
    return empty_map(grad, indices.shape, is_channels_last(indices))


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _unpool_backward(ctx: Any, grad: Tensor) -> Any:
    (indices,) = ctx.saved_tensors
    to_input = call("max_unpool2d_backward", grad, indices) if ctx.needs_input_grad[0] else None
    return to_input, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, indices = inputs
    ctx.save_for_backward(indices)
    ctx.size = grad.shape[2:]


def _unpool_double_backward(ctx: Any, grad: Tensor) -> Any:
    """The transpose of the transpose: the op itself."""
    (indices,) = ctx.saved_tensors
    return call("max_unpool2d", grad, indices, *ctx.size), None


register_autograd("max_unpool2d", _unpool_backward, _save_forward, images=(0, 1))
register_autograd("max_unpool2d_backward", _unpool_double_backward, _save_backward, images=(0, 1))
