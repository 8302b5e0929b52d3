"""Transposed convolution in plain PyTorch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastvision.reference.upsample.pair import to_pair

Pair = tuple[int, int]
Activation = Literal["relu", "leaky_relu"]


def activate(x: Tensor, activation: Activation | None, negative_slope: float) -> Tensor:
    if activation is None:
        return x
    return torch.relu(x) if activation == "relu" else torch.nn.functional.leaky_relu(x, negative_slope)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
    dilation: int | Pair = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """[N, C, H, W], [C, O / groups, kh, kw] -> [N, O, H', W']: one tap of the kernel after the other."""
    if input.dim() == 3:
        batched = (input[None], weight, bias, stride, padding, output_padding, groups, dilation)
        return conv_transpose2d(*batched, activation=activation, negative_slope=negative_slope)[0]
    (sy, sx), (py, px), (oy, ox), (dy, dx) = map(to_pair, (stride, padding, output_padding, dilation))
    batch, channels, height, width = input.shape
    _, outputs, kh, kw = weight.shape
    # sums of half types in float32
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    inputs = input.to(dtype).reshape(batch, groups, channels // groups, height, width)
    weights = weight.to(dtype).reshape(groups, channels // groups, outputs, kh, kw)
    rows, columns = (height - 1) * sy + dy * (kh - 1) + 1, (width - 1) * sx + dx * (kw - 1) + 1
    output = inputs.new_zeros(batch, groups, outputs, rows + oy, columns + ox)  # nothing is cut off yet
    for y in range(kh):
        for x in range(kw):
            tap = torch.einsum("ngchw,gco->ngohw", inputs, weights[..., y, x])
            to_y = slice(y * dy, y * dy + (height - 1) * sy + 1, sy)
            to_x = slice(x * dx, x * dx + (width - 1) * sx + 1, sx)
            output[:, :, :, to_y, to_x] += tap
    output = output[..., py : rows + oy - py, px : columns + ox - px].flatten(1, 2)
    if bias is not None:
        output = output + bias.to(dtype)[:, None, None]
    return activate(output, activation, negative_slope).to(input.dtype)
