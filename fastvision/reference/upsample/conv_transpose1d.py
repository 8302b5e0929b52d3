"""Transposed convolution of signals in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from fastvision.reference.upsample.conv_transpose2d import Activation, conv_transpose2d


def to_single(value: int | tuple[int]) -> int:
    return value if isinstance(value, int) else value[0]


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
        (1, to_single(stride)),
        (0, to_single(padding)),
        (0, to_single(output_padding)),
        groups,
        (1, to_single(dilation)),
        activation=activation,
        negative_slope=negative_slope,
    ).squeeze(-2)
