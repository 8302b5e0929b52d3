"""ps_roi_align and ps_roi_pool at the edges, against torchvision where it is installed, and bitwise repeatable."""

from __future__ import annotations

from collections.abc import Callable
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
BOTH = pytest.mark.parametrize("name", ["ps_roi_align", "ps_roi_pool"])


def op_named(name: str) -> Callable[..., Tensor]:
    op: Callable[..., Tensor] = getattr(ops, name)
    return op


@LAYOUTS
@pytest.mark.parametrize(("name", "more"), [("ps_roi_align", (2,)), ("ps_roi_align", (0,)), ("ps_roi_pool", ())])
@pytest.mark.parametrize("outputs", [1, 16, 21])
def test_equals_torchvision(layout: Any, name: str, more: Any, outputs: int, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    features = data.feature_map(2, outputs * 9, 25, 34).to(device).to(memory_format=layout)
    rois = data.random_rois(24, 2, 100.0, 136.0).to(device)
    rois[0, 1:] = torch.tensor([-20.0, -20.0, 300.0, 300.0])
    rois[2, 1:] = torch.tensor([-70.0, -70.0, -20.0, -30.0])  # outside
    rois[3, 1:] = torch.tensor([10.0, 30.0, 10.5, 30.5])  # less than a pixel, corners at half pixels
    if name == "ps_roi_pool" or more[0]:
        rois[1, 1:] = torch.tensor([90.0, 70.0, 20.0, 30.0])  # inverted; NaN in torchvision if adaptive
    both = (op_named(name), getattr(torchvision.ops, name))
    ours, theirs = (pooled_and_gradient(f, features, rois, 3, 0.25, *more) for f in both)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    if name == "ps_roi_pool":
        # where a bin meets the end of the map, torchvision's gradient is not that of its forward (gradcheck fails)
        inside = (rois[:, 1:].amin(1) >= 0) & (rois[:, 3] < 33 * 4 - 8) & (rois[:, 4] < 24 * 4 - 8)
        assert inside.sum() > 10
        ours, theirs = (pooled_and_gradient(f, features, rois[inside], 3, 0.25, *more) for f in both)
    scale = theirs[1].abs().max()
    torch.testing.assert_close(ours[1] / scale, theirs[1] / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ratio", [2, 0])
def test_one_bin_is_roi_align(ratio: int, device: torch.device) -> None:
    features, rois = data.feature_map(2, 20, 25, 34).to(device), data.random_rois(24, 2, 100.0, 136.0).to(device)
    torch.testing.assert_close(
        ops.ps_roi_align(features, rois, 1, 0.25, ratio), ops.roi_align(features, rois, 1, 0.25, ratio, True)
    )


@BOTH
def test_layouts_agree_and_are_kept(name: str, device: torch.device) -> None:
    features, rois = data.feature_map(2, 18 * 4, 8, 9).to(device), data.random_rois(5, 2, 8.0, 9.0).to(device)
    last = features.to(memory_format=torch.channels_last)
    plain, kept = (pooled_and_gradient(op_named(name), f, rois, 2) for f in (features, last))
    assert plain[0].is_contiguous() and plain[1].is_contiguous()
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in kept)
    assert torch.equal(plain[0], kept[0]) and torch.equal(plain[1], kept[1])


@BOTH
def test_nothing_to_pool(name: str, device: torch.device) -> None:
    op, features, none = op_named(name), data.feature_map(2, 12, 8, 9).to(device), torch.zeros(0, 5, device=device)
    out, gradient = pooled_and_gradient(op, features, none, (3, 2))
    assert out.shape == (0, 2, 3, 2) and gradient.shape == features.shape and not gradient.any()
    assert op(features[:0], none, 2).shape == (0, 3, 2, 2)
    roi = torch.tensor([[0.0, 1, 1, 4, 4]], device=device)
    assert not op(features[:, :, :0], roi, 2).any()
    assert op(features[:, :0], roi, 2).shape == (1, 0, 2, 2)


@BOTH
def test_nan_and_infinite_rois_are_zero(name: str, device: torch.device) -> None:
    features = data.feature_map(1, 9, 8, 9).to(device)
    bad = torch.tensor([[0.0, 1, 1, 6, 6]]).repeat(12, 1)
    for i, value in enumerate((NAN, INF, -INF)):
        for column in range(4):
            bad[4 * i + column, 1 + column] = value
    out, gradient = pooled_and_gradient(op_named(name), features, bad.to(device), 3)
    assert not out.any() and not gradient.any()


@BOTH
@pytest.mark.parametrize("size", [1e5, 1e9, 1e15, 1e20, 3e38])
def test_enormous_rois_are_bounded_work(name: str, size: float, device: torch.device) -> None:
    features = data.feature_map(1, 18, 8, 9).to(device)
    rois = torch.tensor([[0.0, -size, -size, size, size], [0, 0, 0, size, size], [0, size, 0, size, 5]], device=device)
    out, gradient = pooled_and_gradient(op_named(name), features, rois, 3)
    assert out.isfinite().all() and gradient.isfinite().all()


@BOTH
def test_image_index_out_of_range(name: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    features = data.feature_map(2, 4, 8, 9).to(device)
    message = rf"{name}: expected rois\[0, 0\], the image of the roi, in \[0, 2\)"
    for index in (2.0, -1.0, NAN, 1e30):
        rois = torch.tensor([[index, 1, 1, 4, 4]], device=device)
        if device.type == "cpu" and fastvision.BACKEND == "native":
            with pytest.raises(IndexError, match=message):
                op_named(name)(features, rois, 2)
        else:
            assert not op_named(name)(features, rois, 2).any()
    monkeypatch.setenv("FASTVISION_CHECK", "1")
    with pytest.raises(IndexError, match=message):
        op_named(name)(features, rois, 2)


@BOTH
@pytest.mark.parametrize(
    ("features", "rois", "message"),
    [
        ((2, 4, 8), (1, 5), r"expected a feature map of shape \[N, C, H, W\], got \[2, 4, 8\]"),
        ((2, 4, 8, 9), (1, 4), r"expected rois of shape \[N, 5\], got \[1, 4\]"),
        ((2, 6, 8, 9), (1, 5), "expected a multiple of 2 x 2 channels, got 6"),
    ],
)
def test_bad_arguments(name: str, features: Any, rois: Any, message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match="expected at most 1099511627776 bins, got 4294967296 x 4294967296"):
        op_named(name)(torch.zeros(1, 4, 2, 2, device=device), torch.zeros(1, 5, device=device), 2**32)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        op_named(name)(torch.zeros(features, device=device), torch.zeros(rois, device=device), 2)


def test_sampling_ratio_is_limited(device: torch.device) -> None:
    features, roi = torch.ones(1, 1, 4, 4, device=device), torch.tensor([[0.0, 0, 0, 3, 3]], device=device)
    with pytest.raises(ValueError, match="ps_roi_align: expected sampling_ratio <= 1048576, got 1099511627776"):
        ops.ps_roi_align(features, roi, 1, 1.0, 2**40)


@BOTH
@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_rounded_once(name: str, layout: Any, dtype: torch.dtype, device: torch.device) -> None:
    features = data.feature_map(1, 32 * 4, 20, 21).to(device, dtype).to(memory_format=layout)
    rois = data.random_rois(20, 1, 20.0, 21.0).to(device)
    out, exact = op_named(name)(features, rois, 2), op_named(name)(features.double(), rois.double(), 2)
    ulp = torch.finfo(dtype).eps * exact.abs().clamp(min=2**-6)
    assert ((out.double() - exact).abs() <= 2 * ulp).all()


@BOTH
@LAYOUTS
def test_bitwise_repeatable(name: str, layout: Any, device: torch.device) -> None:
    features = data.feature_map(2, 17 * 4, 20, 21).to(device).to(memory_format=layout)
    rois = data.random_rois(40, 2, 20.0, 21.0).to(device)
    bitwise_repeatable(lambda: pooled_and_gradient(op_named(name), features, rois, 2))


@BOTH
def test_more_than_two_to_the_31_elements(name: str) -> None:
    base, batch = data.feature_map(1, 1, 4, 5), 2**23
    features = base.expand(batch, 16, 4, 5)
    assert features.numel() > 2**31
    out = op_named(name)(features, torch.tensor([[batch - 1.0, 0.5, 0.5, 3, 3]]), 2)
    expected = op_named(name)(base.expand(1, 16, 4, 5), torch.tensor([[0, 0.5, 0.5, 3, 3]]), 2)
    assert torch.equal(out, expected)


@pytest.mark.slow
@BOTH
def test_many_rois_and_images(name: str, device: torch.device) -> None:
    features = data.feature_map(64, 4, 6, 7).to(device)
    rois = data.random_rois(100_000, 64, 24.0, 28.0).to(device)
    out, gradient = pooled_and_gradient(op_named(name), features, rois, 2, 0.25)
    some = torch.arange(0, 100_000, 997, device=device)
    torch.testing.assert_close(out[some], op_named(name)(features, rois[some], 2, 0.25))
    weight = torch.linspace(-1, 1, out.numel(), device=device).reshape(out.shape)
    # the backward is the transpose of the forward
    total = float((out.detach() * weight).abs().double().sum())
    assert abs(float((out * weight).double().sum() - (gradient * features).double().sum())) < 1e-5 * total


def test_modules(device: torch.device) -> None:
    features, rois = data.feature_map(1, 6, 8, 9).to(device), data.random_rois(4, 1, 16.0, 18.0).to(device)
    align, pool = ops.PSRoIAlign((3, 2), 0.5, 2), ops.PSRoIPool((3, 2), 0.5)
    assert torch.equal(align(features, rois), ops.ps_roi_align(features, rois, (3, 2), 0.5, 2))
    assert torch.equal(pool(features, rois), ops.ps_roi_pool(features, rois, (3, 2), 0.5))
    assert repr(align) == "PSRoIAlign(output_size=(3, 2), spatial_scale=0.5, sampling_ratio=2)"
    assert repr(pool) == "PSRoIPool(output_size=(3, 2), spatial_scale=0.5)"
