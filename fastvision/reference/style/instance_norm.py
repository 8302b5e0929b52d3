"""Instance normalisation in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def check_dimensions(input: Tensor) -> None:
    if not 3 <= input.dim() <= 5:
        shape = list(input.shape)
        raise ValueError(f"instance_norm: expected input of shape [N, C, *spatial], 3 to 5 dimensions, got {shape}")


def slope_of(activation: str | None, leaky_slope: float) -> float:
    """An activation as its slope below zero; above it is 1."""
    if activation is None:
        return 1.0
    if activation not in ("relu", "leaky_relu"):
        raise ValueError(f'instance_norm: expected activation None, "relu" or "leaky_relu", got {activation!r}')
    return 0.0 if activation == "relu" else leaky_slope


def activated(x: Tensor, activation: str | None, leaky_slope: float) -> Tensor:
    if slope_of(activation, leaky_slope) == 1:
        return x
    return F.relu(x) if activation == "relu" else F.leaky_relu(x, leaky_slope)


def instance_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    leaky_slope: float = 0.01,
    style: Tensor | None = None,
) -> Tensor:
    """[N, C, *spatial] -> the same: mean and variance of each plane, in float32 or wider."""
    check_dimensions(input)
    if style is not None and weight is None and bias is None:
        raise ValueError("instance_norm: expected weight or bias with style, got neither")
    x = input if input.dtype == torch.float64 else input.float()
    spatial = list(range(2, x.dim()))
    deviation = x - x.mean(spatial, keepdim=True)
    out = deviation * (deviation.square().mean(spatial, keepdim=True) + eps).rsqrt()
    for values in (weight, bias):
        if values is None:
            continue
        rows = values[None] if style is None else values[_checked(style, len(values))]
        rows = rows.to(x.dtype).reshape(*rows.shape, *[1] * len(spatial))
        out = out * rows if values is weight else out + rows
    return activated(out, activation, leaky_slope).to(input.dtype)


def _checked(style: Tensor, styles: int) -> Tensor:
    for image, row in enumerate(style.tolist()):
        if not 0 <= row < styles:
            raise IndexError(f"instance_norm: expected style[{image}] in [0, {styles}), got {row}")
    return style
