"""Depthwise transposed convolution by vectors of channels against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transposed_layers import kernel

from fastvision import _library

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")


@pytest.mark.parametrize("channels", [8, 16, 21, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("slope", [1.0, 0.1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_vectors_of_channels(
    channels: int, dtype: torch.dtype, slope: float, layout: torch.memory_format, device: torch.device
) -> None:
    """Depthwise layers have a kernel of their own, for which narrow planes are turned; also of a part of a map."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, channels + 1, 11, 17, generator=g).to(memory_format=layout).to(device, dtype)[:, 1:]
    weight, bias = (torch.randn(size, generator=g).to(device, dtype) for size in ((channels, 1, 5, 4), (channels,)))
    rest = ((2, 3), (1, 2), (1, 0), channels, (1, 1))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-9, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for part in (x, x.clone(memory_format=layout)):
        expected = F.conv_transpose2d(part.double(), weight.double(), bias.double(), *rest)
        actual = kernel(part, weight, bias, *rest, slope=slope)
        expected = F.leaky_relu(expected, slope)
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("stride", "taps", "height", "width"), [(8, 16, 48, 49), (1, 3, 380, 381), (32, 40, 12, 13), (1, 3, 6000, 24)]
)
def test_large_depthwise_outputs(
    stride: int, taps: int, height: int, width: int, layout: torch.memory_format, device: torch.device
) -> None:
    """Of 8 MB and more, whose memory is asked for ahead."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(1, 16, height, width, generator=g).to(device, memory_format=layout)
    weight = torch.randn(16, 1, taps, taps, generator=g).to(device)
    expected = F.conv_transpose2d(x, weight, None, stride, 1, 0, 16)
    assert expected.nbytes >= 8 << 20
    actual = kernel(x, weight, None, (stride, stride), (1, 1), (0, 0), 16, (1, 1), slope=1.0)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_depthwise_pixels_of_any_strides(device: torch.device) -> None:
    """Those of sides of 1 say nothing."""
    x, weight = torch.randn(3, 24, device=device), torch.randn(24, 1, 4, 4, device=device)
    expected = F.conv_transpose2d(x[:, :, None, None], weight, None, 2, 1, 0, 24)
    for strides in ((24, 1, 24, 24), (24, 1, 1, 1), (24, 1, 7, 5)):
        pixels = x.as_strided((3, 24, 1, 1), strides)
        actual = kernel(pixels, weight, None, (2, 2), (1, 1), (0, 0), 24, (1, 1), slope=1.0)
        torch.testing.assert_close(actual, expected)
