"""roi_pool at the edges, against torchvision where it is installed, and bitwise repeatable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from roi_checks import bitwise_repeatable, pooled_and_gradient
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing import data

NAN, INF = float("nan"), float("inf")
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


@LAYOUTS
@pytest.mark.parametrize("size", [7, (3, 5), 40], ids=str)
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_equals_torchvision(layout: Any, size: Any, channels: int, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    features = data.feature_map(2, channels, 25, 34).to(device).to(memory_format=layout)
    rois = data.random_rois(24, 2, 100.0, 136.0).to(device)
    rois[0, 1:] = torch.tensor([-20.0, -20.0, 300.0, 300.0])
    rois[1, 1:] = torch.tensor([90.0, 70.0, 20.0, 30.0])  # inverted
    rois[2, 1:] = torch.tensor([-70.0, -70.0, -20.0, -30.0])  # outside
    rois[3, 1:] = torch.tensor([10.0, 30.0, 10.0, 30.0])  # corners at half pixels
    ours, theirs = (
        pooled_and_gradient(f, features, rois, size, 0.25) for f in (ops.roi_pool, torchvision.ops.roi_pool)
    )
    assert torch.equal(ours[0], theirs[0])
    scale = theirs[1].abs().max()
    torch.testing.assert_close(ours[1] / scale, theirs[1] / scale, rtol=1e-5, atol=1e-5)


def test_places_equal_torchvisions(device: torch.device) -> None:
    """Of equal values the first counts, in the order of rows and columns."""
    pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    features = (data.feature_map(2, 20, 25, 34).to(device) * 2).round()
    rois = data.random_rois(24, 2, 100.0, 136.0).to(device)
    ours = torch.ops.fastvision.roi_pool(features, rois, 0.25, 5, 4, False)
    theirs = torch.ops.torchvision.roi_pool(features, rois, 0.25, 5, 4)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    last = torch.ops.fastvision.roi_pool(features.to(memory_format=torch.channels_last), rois, 0.25, 5, 4, False)
    assert torch.equal(last[1], ours[1])


@LAYOUTS
@pytest.mark.parametrize("channels", [3, 32])
def test_nan_is_the_largest(layout: Any, channels: int, device: torch.device) -> None:
    features = data.feature_map(1, channels, 8, 9).to(device).to(memory_format=layout)
    features[0, :, 3, 4], features[0, :, 3, 5], features[0, :, 6, 1] = NAN, INF, -INF
    rois = torch.tensor([[0.0, 0, 0, 8, 7], [0, 4, 3, 4, 3], [0, 1, 6, 1, 6]], device=device)
    expected = torch.nn.functional.adaptive_max_pool2d(features, (2, 3))
    out = ops.roi_pool(features, rois, (2, 3))
    torch.testing.assert_close(out[:1], expected, equal_nan=True)
    assert out[1].isnan().all() and (out[2] == -INF).all()


@LAYOUTS
def test_the_first_of_several_nans(layout: Any, device: torch.device) -> None:
    features = torch.zeros(1, 32, 3, 3, device=device).to(memory_format=layout)
    features[:, :, 1, 0] = features[:, :, 0, 1] = NAN
    rois = torch.tensor([[0.0, 0, 0, 2, 2]], device=device)
    assert (torch.ops.fastvision.roi_pool(features, rois, 1.0, 1, 1, False)[1] == 1).all()


def test_a_side_past_what_float32_counts(device: torch.device) -> None:
    """2^24 + 3 rows: as a float that is one more, but the row after the last is someone else's."""
    rows = 2**24 + 3
    longer = torch.zeros(rows + 16, device=device)
    longer[rows:] = 777
    features = longer[:rows].view(1, 1, rows, 1)
    roi = torch.tensor([[0.0, 0, rows - 20, 0, rows + 20]], device=device)
    assert not ops.roi_pool(features, roi, (2, 1)).any()
    assert not ops.ps_roi_pool(features, roi, 1).any()
    turned = torch.tensor([[0.0, 0.5, rows, 2, 4, 0]], device=device)
    assert not ops.roi_align_rotated(features, turned, 1, 1.0, 2).any()


def test_channels_last_is_kept(device: torch.device) -> None:
    for channels in (16, 20):
        features = data.feature_map(2, channels, 8, 9).to(device).to(memory_format=torch.channels_last)
        rois = data.random_rois(5, 2, 8.0, 9.0).to(device)
        out, gradient = pooled_and_gradient(ops.roi_pool, features, rois, 3)
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert gradient.is_contiguous(memory_format=torch.channels_last)
        plain = pooled_and_gradient(ops.roi_pool, features.contiguous(), rois, 3)
        assert plain[0].is_contiguous() and plain[1].is_contiguous()
        assert torch.equal(out, plain[0]) and torch.equal(gradient, plain[1])


def test_nothing_to_pool(device: torch.device) -> None:
    features, none = data.feature_map(2, 3, 8, 9).to(device), torch.zeros(0, 5, device=device)
    out, gradient = pooled_and_gradient(ops.roi_pool, features, none, (3, 2))
    assert out.shape == (0, 3, 3, 2) and gradient.shape == features.shape and not gradient.any()
    assert ops.roi_pool(features[:0], none, 2).shape == (0, 3, 2, 2)
    roi = torch.tensor([[0.0, 1, 1, 4, 4]], device=device)
    assert not ops.roi_pool(features[:, :, :0], roi, 2).any()


def test_nan_and_infinite_rois_are_zero(device: torch.device) -> None:
    features = data.feature_map(1, 4, 8, 9).to(device)
    bad = torch.tensor([[0.0, 1, 1, 6, 6]]).repeat(12, 1)
    for i, value in enumerate((NAN, INF, -INF)):
        for column in range(4):
            bad[4 * i + column, 1 + column] = value
    out, gradient = pooled_and_gradient(ops.roi_pool, features, bad.to(device), 3)
    assert not out.any() and not gradient.any()


@pytest.mark.parametrize("size", [1e5, 1e9, 1e15, 1e20, 3e38])
def test_enormous_rois_are_bounded_work(size: float, device: torch.device) -> None:
    features = data.feature_map(1, 2, 8, 9).to(device)
    rois = torch.tensor([[0.0, -size, -size, size, size], [0, 0, 0, size, size], [0, size, 0, size, 5]], device=device)
    out, gradient = pooled_and_gradient(ops.roi_pool, features, rois, 3)
    assert out.isfinite().all() and gradient.isfinite().all()
    assert torch.equal(out[0].amax((1, 2)), features[0].amax((1, 2)))  # whichever bin the map is in


def test_image_index_out_of_range(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    features = data.feature_map(2, 3, 8, 9).to(device)
    message = r"roi_pool: expected rois\[0, 0\], the image of the roi, in \[0, 2\)"
    for index in (2.0, -1.0, NAN, 1e30):
        rois = torch.tensor([[index, 1, 1, 4, 4]], device=device)
        if device.type == "cpu" and fastvision.BACKEND == "native":
            with pytest.raises(IndexError, match=message):
                ops.roi_pool(features, rois, 2)
        else:
            assert not ops.roi_pool(features, rois, 2).any()
    monkeypatch.setenv("FASTVISION_CHECK", "1")
    with pytest.raises(IndexError, match=message):
        ops.roi_pool(features, rois, 2)


@pytest.mark.parametrize(
    ("features", "rois", "message"),
    [
        (torch.zeros(2, 3, 8), torch.zeros(1, 5), r"expected a feature map of shape \[N, C, H, W\], got \[2, 3, 8\]"),
        (torch.zeros(2, 3, 8, 9), torch.zeros(1, 4), r"expected rois of shape \[N, 5\], got \[1, 4\]"),
        (torch.zeros(2, 3, 8, 9).long(), torch.zeros(1, 5), "expected the feature map of dtype float32"),
        (
            torch.zeros(1, 1, 1, 1).expand(1, 1, 2**16, 2**16),
            torch.zeros(0, 5),
            "expected a plane of at most 2147483647",
        ),
    ],
)
def test_bad_arguments(features: Tensor, rois: Tensor, message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match="roi_pool: " + message):
        ops.roi_pool(features.to(device), rois.to(device), 2)
    with pytest.raises(ValueError, match=r"expected a positive output size, got \[0, 2\]"):
        ops.roi_pool(torch.zeros(1, 1, 2, 2, device=device), torch.zeros(0, 5, device=device), (0, 2))


def test_backward_checks_its_arguments(device: torch.device) -> None:
    grad, rois = torch.ones(1, 1, 2, 2, device=device), torch.tensor([[0.0, 0, 0, 3, 3]], device=device)
    backward = torch.ops.fastvision.roi_pool_backward
    with pytest.raises(ValueError, match="expected argmax of the shape of grad"):
        backward(grad, rois, torch.zeros(1, 1, 2, 1, dtype=torch.int32, device=device), 1.0, 1, 4, 4, False, False)
    with pytest.raises(ValueError, match="and int32"):
        backward(grad, rois, torch.zeros(1, 1, 2, 2, device=device), 1.0, 1, 4, 4, False, False)
    wild = torch.full((1, 1, 2, 2), 2**31 - 1, dtype=torch.int32, device=device)
    assert not backward(grad, rois, wild, 1.0, 1, 4, 4, False, False).any()


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_values_are_exact(dtype: torch.dtype, layout: Any, device: torch.device) -> None:
    features = data.feature_map(1, 32, 20, 21).to(device, dtype).to(memory_format=layout)
    rois = data.random_rois(20, 1, 20.0, 21.0).to(device)
    assert torch.equal(ops.roi_pool(features, rois, 7).float(), ops.roi_pool(features.float(), rois, 7))
    _, gradient = pooled_and_gradient(ops.roi_pool, features, rois, 7)
    _, exact = pooled_and_gradient(ops.roi_pool, features.double(), rois, 7)
    # what flows back was rounded to half, once; the sums over rois were not
    bound = torch.finfo(dtype).eps * pooled_and_gradient(ops.roi_pool, features.double(), rois, 7, weight=1)[1]
    assert ((gradient.double() - exact).abs() <= 2 * bound).all()


@LAYOUTS
def test_bitwise_repeatable(layout: Any, device: torch.device) -> None:
    features = data.feature_map(2, 40, 30, 31).to(device).to(memory_format=layout)
    rois = data.random_rois(60, 2, 30.0, 31.0).to(device)
    bitwise_repeatable(lambda: pooled_and_gradient(ops.roi_pool, features, rois, 7))


def test_second_derivative_is_a_gather(device: torch.device) -> None:
    features = data.feature_map(2, 3, 8, 9).to(device).requires_grad_()
    rois = data.random_rois(6, 2, 8.0, 9.0).to(device)
    out = ops.roi_pool(features, rois, 2)
    weight = torch.ones_like(out, requires_grad=True)
    (gradient,) = torch.autograd.grad(out, features, weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient, weight, features.detach())
    assert torch.equal(second, out)


def test_second_derivative_on_an_empty_map(device: torch.device) -> None:
    features = torch.zeros(1, 2, 0, 5, device=device, requires_grad=True)
    out = ops.roi_pool(features, torch.tensor([[0.0, 0, 0, 3, 3]], device=device), 2)
    weight = torch.ones_like(out, requires_grad=True)
    (gradient,) = torch.autograd.grad(out, features, weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient, weight, torch.ones_like(gradient))
    assert second.shape == out.shape and not second.any()


def test_more_than_two_to_the_31_elements() -> None:
    base, batch = data.feature_map(1, 1, 4, 5), 2**23
    features = base.expand(batch, 17, 4, 5)
    out = ops.roi_pool(features, torch.tensor([[batch - 1.0, 0, 0, 3, 3]]), 2)
    expected = ops.roi_pool(base, torch.tensor([[0.0, 0, 0, 3, 3]]), 2)
    assert torch.equal(out, expected.expand(1, 17, 2, 2))


def test_many_rois_and_images(device: torch.device) -> None:
    features = data.feature_map(64, 2, 6, 7).to(device)
    rois = data.random_rois(100_000, 64, 24.0, 28.0).to(device)
    out, gradient = pooled_and_gradient(ops.roi_pool, features, rois, 1, 0.25)
    some = torch.arange(0, 100_000, 997, device=device)
    assert torch.equal(out[some], ops.roi_pool.reference(features, rois[some], 1, 0.25))
    # every gradient arrives somewhere
    torch.testing.assert_close(
        gradient.double().sum(), torch.zeros((), dtype=torch.float64, device=device), atol=1, rtol=0
    )


def test_module(device: torch.device) -> None:
    features, rois = data.feature_map(1, 3, 8, 9).to(device), data.random_rois(4, 1, 16.0, 18.0).to(device)
    module = ops.RoIPool((3, 2), 0.5)
    assert torch.equal(module(features, rois), ops.roi_pool(features, rois, (3, 2), 0.5))
    assert repr(module) == "RoIPool(output_size=(3, 2), spatial_scale=0.5)"
