"""Transposed convolution of signals in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from fastvision.reference.upsample.conv_transpose2d import Activation, Pair, conv_transpose2d

Single = int | tuple[int]


def of_a_column(value: Single, rows: int) -> Pair:
    """What an image of one row takes instead of ``value``: ``rows`` for its rows."""
    return rows, value if isinstance(value, int) else value[0]


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] = 0,
    output_padding: int | tuple[int] = 0,
    groups: int = 1,
    dilation: int | tuple[int] = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """[N, C, L], [C, O / groups, k] -> [N, O, L']: an image of one row."""
    return conv_transpose2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        of_a_column(stride, 1),
        of_a_column(padding, 0),
        of_a_column(output_padding, 0),
        groups,
        of_a_column(dilation, 1),
        activation=activation,
        negative_slope=negative_slope,
    ).squeeze(-2)
