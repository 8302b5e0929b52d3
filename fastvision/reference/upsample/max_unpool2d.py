"""Max unpooling in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.upsample.pair import to_pair


def unpooled_size(
    shape: torch.Size,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    output_size: Sequence[int] | None,
) -> tuple[int, int]:
    """(H', W') by the rules of torch.nn.functional.max_unpool2d."""
    if len(shape) not in (3, 4):
        raise ValueError(f"max_unpool2d: expected an input of shape [N, C, H, W] or [C, H, W], got {list(shape)}")
    kernels, pads = to_pair(kernel_size), to_pair(padding)
    steps = kernels if stride is None else to_pair(stride)
    sizes = zip(shape[-2:], kernels, steps, pads, strict=True)
    height, width = [(size - 1) * step + kernel - 2 * pad for size, kernel, step, pad in sizes]
    if output_size is not None:
        if len(output_size) not in (2, 4):
            raise ValueError(f"max_unpool2d: expected an output_size of 2 or 4 numbers, got {list(output_size)}")
        for axis, (size, usual, step) in enumerate(zip(output_size[-2:], (height, width), steps, strict=True)):
            if not usual - step < size < usual + step:
                raise ValueError(
                    f"max_unpool2d: expected output_size[{axis - 2}] between {usual - step} and {usual + step}, both "
                    f"excluded, got {size}"
                )
        height, width = output_size[-2:]
    if height < 0 or width < 0:
        raise ValueError(f"max_unpool2d: expected an output size >= 0, got [{height}, {width}]")
    return height, width


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """[N, C, H, W], [N, C, H, W] -> [N, C, H', W']: find the last input of each place, and read it."""
    height, width = unpooled_size(input.shape, kernel_size, stride, padding, output_size)
    if indices.shape != input.shape:
        raise ValueError(
            f"max_unpool2d: expected indices of the shape of the input, {list(input.shape)}, got {list(indices.shape)}"
        )
    places, values = indices.flatten(-2).long(), input.flatten(-2)
    wrong = places[(places < 0) | (places >= height * width)]
    if len(wrong):
        raise IndexError(f"max_unpool2d: expected indices in [0, {height * width}), got {int(wrong[0])}")
    order = torch.arange(places.shape[-1], device=input.device).expand(places.shape)
    last = torch.full((*places.shape[:-1], height * width), -1, device=input.device)
    last = last.scatter_reduce(-1, places, order, "amax")
    if values.shape[-1] == 0:
        return input.new_zeros(*input.shape[:-2], height, width)
    output = values.gather(-1, last.clamp(min=0)).where(last >= 0, 0)
    return output.view(*input.shape[:-2], height, width)
