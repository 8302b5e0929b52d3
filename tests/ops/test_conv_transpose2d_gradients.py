"""First and second derivatives of our transposed convolution of dense layers, whatever kernel would be chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastvision import _library
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to differentiate")
LAYERS = pytest.mark.parametrize(
    ("taps", "rest"),
    [((2, 2), ((2, 2), (0, 0), (0, 0))), ((3, 3), ((2, 2), (1, 1), (1, 1)))],
    ids=["2x2, stride 2", "3x3, stride 2"],
)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
ACTIVATIONS = pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])


def tensors(device: torch.device, layout: Any, channels: int, outputs: int, taps: tuple[int, int]) -> list[Tensor]:
    g = data.generator(3)
    x = torch.randn(2, channels, 3, 2, generator=g, dtype=torch.float64).to(memory_format=layout)
    weight = torch.randn(channels, outputs, *taps, generator=g, dtype=torch.float64)
    bias = torch.randn(outputs, generator=g, dtype=torch.float64)
    return [t.to(device).requires_grad_() for t in (x, weight, bias)]


@LAYERS
@LAYOUTS
@ACTIVATIONS
@pytest.mark.parametrize(("channels", "outputs"), [(2, 3), (16, 18)], ids=["2 to 3", "16 to 18"])
def test_derivatives_of_dense_layers(
    taps: Any, rest: Any, layout: Any, activation: str, channels: int, outputs: int, device: torch.device
) -> None:
    geometry = (*(number for pair in rest for number in pair), 1, 1, 1)
    slope = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.2}[activation]

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.ops.fastvision.conv_transpose2d(x, weight, bias, geometry, slope)

    args = tensors(device, layout, channels, outputs, taps)
    assert layer(*args).is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(layer, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, args, fast_mode=True)
