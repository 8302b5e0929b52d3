"""Max pooling with indices in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.upsample.pair import to_pair


def windows(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Tensor:
    """[P, kernel]: the pixels of each window along one axis; some may lie outside."""
    reach = dilation * (kernel - 1) + 1
    count = (size + 2 * padding - reach + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # the last window would begin past the edge
    return (torch.arange(count) * stride - padding)[:, None] + torch.arange(kernel) * dilation


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """[N, C, H, W] -> [N, C, P, Q] values and places in the flat plane: the argmax of every window."""
    steps = kernel_size if stride is None else stride
    axes = zip(input.shape[-2:], *map(to_pair, (kernel_size, steps, padding, dilation)), strict=True)
    y, x = (windows(n, k, s, p, d, ceil_mode).to(input.device) for n, k, s, p, d in axes)
    height, width = input.shape[-2:]
    inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[None, :, None, :]  # [P, Q, k, k]
    places = (y[:, None, :, None] * width + x[None, :, None, :]).where(inside, 0).flatten(2)
    values = input.flatten(-2)[..., places].where(inside.flatten(2), -torch.inf)  # [N, C, P, Q, k * k]
    best = values.argmax(-1, keepdim=True)
    found = places.expand(values.shape).gather(-1, best)[..., 0]
    return input.flatten(-2).gather(-1, found.flatten(-2)).view(found.shape), found
