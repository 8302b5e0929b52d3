"""bilinear_kernel: what a transposed convolution does with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastvision import ops
from fastvision.testing import data

FACTORS = pytest.mark.parametrize("factor", [1, 2, 3, 4, 7, 8, 32])


@FACTORS
def test_constant_maps_stay_constant_inside(factor: int, device: torch.device) -> None:
    """The kernels of neighbours add up to one; at the border one of them is missing."""
    weight = ops.bilinear_kernel(2, factor, dtype=torch.float64, device=device)
    image = torch.full((1, 2, 5, 6), 3.0, dtype=torch.float64, device=device)
    out = F.conv_transpose2d(image, weight, stride=factor, padding=factor // 2, groups=2)
    assert out.shape == (1, 2, 5 * factor, 6 * factor)
    inner = out[:, :, factor:-factor, factor:-factor]
    torch.testing.assert_close(inner, torch.full_like(inner, 3.0))
    if factor > 1:
        assert out[0, 0, 0, 0] < 3


@FACTORS
def test_interpolates_inside(factor: int, device: torch.device) -> None:
    """As F.interpolate, away from the border."""
    image = data.feature_map(1, 3, 6, 5).to(device, torch.float64)
    weight = ops.bilinear_kernel(3, factor, dtype=torch.float64, device=device)
    out = F.conv_transpose2d(image, weight, stride=factor, padding=factor // 2, groups=3)
    expected = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    torch.testing.assert_close(out[inner], expected[inner])


def test_dense_and_depthwise_agree(device: torch.device) -> None:
    image = data.feature_map(1, 6, 4, 5).to(device)
    outs = [
        F.conv_transpose2d(
            image, ops.bilinear_kernel(6, 2, groups=groups, device=device), stride=2, padding=1, groups=groups
        )
        for groups in (6, 1, 2)
    ]
    for other in outs[1:]:
        torch.testing.assert_close(other, outs[0])
    assert ops.bilinear_kernel(6, 2, groups=1).count_nonzero() == 6 * 16


def test_the_published_initialisation() -> None:
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(ops.bilinear_kernel(1, 2)[0, 0], torch.outer(line, line))
    line = torch.tensor([1.0, 2, 3, 2, 1]) / 3
    torch.testing.assert_close(ops.bilinear_kernel(1, 3)[0, 0], torch.outer(line, line))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((-1, 2), {}, "expected channels >= 0 and a factor >= 1, got -1 and 2"),
        ((3, 0), {}, "expected channels >= 0 and a factor >= 1, got 3 and 0"),
        ((3, 2), {"groups": 2}, "expected groups that divide 3 channels, got 2"),
        ((3, 2), {"groups": 0}, "expected groups that divide 3 channels, got 0"),
        ((3, 2), {"dtype": torch.int64}, "expected a floating-point dtype, got torch.int64"),
    ],
)
def test_bad_arguments(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match="bilinear_kernel: " + message):
        ops.bilinear_kernel(*args, **kwargs)
