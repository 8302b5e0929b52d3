"""Transposed convolutions for the tests of several files, and our kernel of them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fastvision.ops.upsample.kernel_choice import Layer

# groups, and inputs and outputs of each
GROUPS = [
    (1, 7, 5),
    (1, 3, 3),
    (2, 3, 4),
    (3, 1, 1),
    (5, 1, 2),
    (1, 1, 9),
    (1, 3, 19),
    (2, 2, 10),
    (8, 1, 1),
    (21, 1, 1),
    (1, 17, 5),
    (1, 16, 33),
    (1, 40, 1),
]

# rows and columns; extra: of the output's padding, at most
GEOMETRY = {
    "taps": st.tuples(st.sampled_from([1, 2, 3, 5, 18]), st.sampled_from([1, 2, 4, 7, 17, 33])),
    "stride": st.tuples(st.sampled_from([1, 2, 3, 9]), st.sampled_from([1, 2, 3, 4, 16])),
    "dilation": st.tuples(st.integers(1, 2), st.sampled_from([1, 1, 2, 3])),
    "padding": st.tuples(st.integers(0, 2), st.integers(0, 3)),
    "extra": st.tuples(st.integers(0, 3), st.integers(0, 3)),
}


def a_layer(channels: int, outputs: int, taps: int, stride: int, side: int, groups: int = 1, **kwargs: Any) -> Layer:
    sizes = torch.Size((1, channels, side, side)), torch.Size((channels, outputs // groups, taps, taps))
    layer = Layer(*sizes, (stride, stride), (0, 0), (0, 0), groups, (1, 1), torch.float32, False, False)
    return layer._replace(**kwargs)


def kernel(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any, slope: float = 0.0) -> Tensor:
    """Our kernel, whatever :func:`choose_kernel` would say. rest: stride, padding, output_padding, groups, dilation."""
    stride, padding, output_padding, groups, dilation = rest
    geometry = (*stride, *padding, *output_padding, *dilation, groups)
    return torch.ops.fastvision.conv_transpose2d(input, weight, bias, geometry, slope)
