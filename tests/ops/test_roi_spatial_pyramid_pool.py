"""spatial_pyramid_pool at the edges, and against adaptive_max_pool2d and roi_pool."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from roi_checks import bitwise_repeatable, pooled_and_gradient
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing import data

LEVELS = (1, 2, 3, 6)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


def adaptive(features: Tensor, levels: Any) -> Tensor:
    return torch.cat([torch.nn.functional.adaptive_max_pool2d(features, n).flatten(1) for n in levels], 1)


def by_level(features: Tensor, levels: Any, rois: Any, *, spatial_scale: float) -> Tensor:
    return torch.cat([ops.roi_pool(features, rois, n, spatial_scale).flatten(1) for n in levels], 1)


@LAYOUTS
@pytest.mark.parametrize("channels", [1, 16, 37, 48])
def test_whole_images_equal_adaptive_pooling(layout: Any, channels: int, device: torch.device) -> None:
    features = data.feature_map(2, channels, 13, 17).to(device).to(memory_format=layout)
    ours, theirs = (pooled_and_gradient(f, features, LEVELS) for f in (ops.spatial_pyramid_pool, adaptive))
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    assert ours[1].is_contiguous(memory_format=layout)


@given(height=st.integers(1, 130), width=st.integers(1, 130), n=st.integers(1, 70))
def test_bins_of_whole_images_are_exact(height: int, width: int, n: int, device: torch.device) -> None:
    """As 49 * (1 / 49) < 1, bins of a real length would not be."""
    features = data.feature_map(1, 1, height, width).to(device)
    assert torch.equal(ops.spatial_pyramid_pool(features, (n,)), adaptive(features, (n,)))


@LAYOUTS
def test_rois_are_pooled_as_roi_pool_does(layout: Any, device: torch.device) -> None:
    features = data.feature_map(2, 32, 25, 31).to(device).to(memory_format=layout)
    rois = data.random_rois(20, 2, 100.0, 124.0).to(device)
    rois[0, 1:] = torch.tensor([-20.0, -20.0, 300.0, 300.0])
    rois[1, 1] = float("nan")
    ours, levels = (
        pooled_and_gradient(functools.partial(f, spatial_scale=0.25), features, LEVELS, rois)
        for f in (ops.spatial_pyramid_pool, by_level)
    )
    assert torch.equal(ours[0], levels[0]) and not ours[0][1].any()
    torch.testing.assert_close(ours[1], levels[1])


def test_order_of_the_row(device: torch.device) -> None:
    """Level by level, each [C, n, n] flattened."""
    features = torch.arange(2 * 2 * 2, dtype=torch.float32, device=device).reshape(1, 2, 2, 2)
    assert ops.spatial_pyramid_pool(features, (1, 2)).tolist() == [[3, 7, 0, 1, 2, 3, 4, 5, 6, 7]]
    assert ops.spatial_pyramid_pool(features, (2, 1)).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 3, 7]]


def test_rows_have_one_length_whatever_the_image(device: torch.device) -> None:
    for height, width in ((1, 1), (5, 40), (64, 48)):
        row = ops.spatial_pyramid_pool(torch.ones(3, 4, height, width, device=device), LEVELS)
        assert row.shape == (3, 4 * 50) and (row == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(dtype: torch.dtype, device: torch.device) -> None:
    features = data.feature_map(2, 16, 9, 11).to(device, dtype)
    out = ops.spatial_pyramid_pool(features, LEVELS)
    assert out.dtype == dtype and torch.equal(out.double(), adaptive(features.double(), LEVELS))


def test_nothing_to_pool(device: torch.device) -> None:
    empty = torch.zeros(0, 3, 8, 9, device=device)
    out, gradient = pooled_and_gradient(ops.spatial_pyramid_pool, empty, LEVELS)
    assert out.shape == (0, 150) and gradient.shape == empty.shape
    features = data.feature_map(2, 3, 8, 9).to(device)
    out, gradient = pooled_and_gradient(ops.spatial_pyramid_pool, features, LEVELS, torch.zeros(0, 5, device=device))
    assert out.shape == (0, 150) and gradient.shape == features.shape and not gradient.any()
    assert ops.spatial_pyramid_pool(features, LEVELS, []).shape == (0, 150)
    for shape in ((2, 3, 0, 9), (2, 3, 8, 0), (2, 0, 8, 9)):
        out, gradient = pooled_and_gradient(ops.spatial_pyramid_pool, torch.zeros(shape, device=device), LEVELS)
        assert out.shape == (2, 50 * shape[1]) and not out.any() and gradient.shape == shape


def test_bad_arguments(device: torch.device) -> None:
    features = torch.zeros(1, 3, 8, 9, device=device)
    pool = ops.spatial_pyramid_pool
    with pytest.raises(ValueError, match=r"spatial_pyramid_pool: expected a feature map of shape \[N, C, H, W\]"):
        pool(features[0], LEVELS)
    with pytest.raises(ValueError, match="expected the feature map of dtype"):
        pool(features.long(), LEVELS)
    with pytest.raises(ValueError, match=r"expected rois of shape \[N, 5\], got \[1, 4\]"):
        pool(features, LEVELS, torch.zeros(1, 4, device=device))
    with pytest.raises(ValueError, match="expected at least one level"):
        pool(features, ())
    with pytest.raises(ValueError, match=r"expected a positive output size, got \[0, 0\]"):
        pool(features, (1, 0))


def test_image_index_out_of_range(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    features = data.feature_map(2, 3, 8, 9).to(device)
    rois = torch.tensor([[2.0, 1, 1, 4, 4]], device=device)
    message = r"roi_pool: expected rois\[0, 0\], the image of the roi, in \[0, 2\)"
    if device.type == "cpu" and fastvision.BACKEND == "native":
        with pytest.raises(IndexError, match=message):
            ops.spatial_pyramid_pool(features, LEVELS, rois)
    else:
        assert not ops.spatial_pyramid_pool(features, LEVELS, rois).any()
    monkeypatch.setenv("FASTVISION_CHECK", "1")
    with pytest.raises(IndexError, match=message):
        ops.spatial_pyramid_pool(features, LEVELS, rois)


@LAYOUTS
@pytest.mark.parametrize("whole", [True, False])
def test_bitwise_repeatable(layout: Any, whole: bool, device: torch.device) -> None:
    """Where torch is told to be deterministic too: adaptive_max_pool2d has no such gradient on CUDA."""
    features = data.feature_map(2, 40, 30, 31).to(device).to(memory_format=layout)
    rois = None if whole else data.random_rois(60, 2, 30.0, 31.0).to(device)
    bitwise_repeatable(lambda: pooled_and_gradient(ops.spatial_pyramid_pool, features, LEVELS, rois))


def test_huge_maps() -> None:
    base = data.feature_map(1, 1, 4, 5)
    features = base.expand(2**23, 17, 4, 5)
    last = torch.tensor([[2.0**23 - 1, 0, 0, 4, 3]])
    expected = ops.spatial_pyramid_pool(base.expand(1, 17, 4, 5), (2,))
    assert torch.equal(ops.spatial_pyramid_pool(features, (1,), last), expected.reshape(17, 4).amax(1)[None])
    meta = torch.empty(64, 4096, 128, 128, device="meta", requires_grad=True)
    out = ops.spatial_pyramid_pool(meta, LEVELS)
    assert out.shape == (64, 4096 * 50)
    assert torch.autograd.grad(out.sum(), meta)[0].shape == meta.shape


def test_module(device: torch.device) -> None:
    features, rois = data.feature_map(1, 3, 8, 9).to(device), data.random_rois(4, 1, 16.0, 18.0).to(device)
    module = ops.SpatialPyramidPool([1, 3], spatial_scale=0.5)
    assert torch.equal(module(features), ops.spatial_pyramid_pool(features, (1, 3)))
    assert torch.equal(module(features, rois), ops.spatial_pyramid_pool(features, (1, 3), rois, spatial_scale=0.5))
    assert repr(module) == "SpatialPyramidPool(levels=(1, 3), spatial_scale=0.5)"
