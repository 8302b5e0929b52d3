"""roi_align_rotated: turned regions against turned maps, at the edges, and bitwise repeatable."""

from __future__ import annotations

import functools
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


def centred(rois: Tensor, degrees: float = 0.0) -> Tensor:
    """(image, x1, y1, x2, y2) -> (image, cx, cy, w, h, degrees)."""
    low, high = rois[:, 1:3], rois[:, 3:5]
    return torch.cat([rois[:, :1], (low + high) / 2, high - low, torch.full_like(low[:, :1], degrees)], 1)


@LAYOUTS
@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_angle_zero_is_roi_align(layout: Any, ratio: int, aligned: bool, channels: int, device: torch.device) -> None:
    """In float64, where rounding moves no sample across a kink."""
    features = data.feature_map(2, channels, 25, 34).double().to(device).to(memory_format=layout)
    rois = data.random_rois(24, 2, 100.0, 136.0).double().to(device)
    rois[0, 1:] = torch.tensor([-20.0, -20.0, 300.0, 300.0])
    turned = pooled_and_gradient(
        functools.partial(ops.roi_align_rotated, aligned=aligned), features, centred(rois), 7, 0.25, ratio
    )
    upright = pooled_and_gradient(ops.roi_align, features, rois, 7, 0.25, ratio, aligned)
    for ours, theirs in zip(turned, upright, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    single = ops.roi_align_rotated(features.float(), centred(rois).float(), 7, 0.25, ratio, aligned=aligned)
    torch.testing.assert_close(single.double(), upright[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1, 5])
def test_quarter_turns_are_turned_maps(quarters: int, device: torch.device) -> None:
    """A region turned counter-clockwise by 90 degrees sees what an upright one sees on the map turned clockwise."""
    features = data.feature_map(1, 4, 24, 24).double().to(device)
    roi = torch.tensor([[0.0, 7.3, 10.1, 9.0, 6.0]], dtype=torch.float64, device=device)
    out = ops.roi_align_rotated(
        features, torch.cat([roi, roi.new_tensor([[90.0 * quarters]])], 1), (3, 5), 1.0, 2, aligned=False
    )
    x, y, size = float(roi[0, 1]), float(roi[0, 2]), 23.0
    for _ in range(quarters % 4):
        x, y = size - y, x
    upright = roi.clone()
    upright[0, 1], upright[0, 2] = x, y
    turned = torch.rot90(features, -(quarters % 4), (2, 3))
    expected = ops.roi_align_rotated(
        turned, torch.cat([upright, roi.new_zeros(1, 1)], 1), (3, 5), 1.0, 2, aligned=False
    )
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_full_turns_and_sense(device: torch.device) -> None:
    features = data.feature_map(2, 4, 24, 24).double().to(device)
    rois = data.random_rotated_rois(20, 2, 24.0, 24.0).double().to(device)
    turned, mirrored = rois.clone(), rois.clone()
    turned[:, 5] += 720
    mirrored[:, 5] *= -1
    out = ops.roi_align_rotated(features, rois, 3, 1.0, 2)
    torch.testing.assert_close(ops.roi_align_rotated(features, turned, 3, 1.0, 2), out)
    assert torch.equal(ops.roi_align_rotated(features, mirrored, 3, 1.0, 2, clockwise=True), out)


def test_constant_maps_and_ramps(device: torch.device) -> None:
    """Means of bilinear samples of a plane are its values at the bins' centres, whatever the angle."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(70.0), indexing="ij")
    features = torch.stack([torch.ones_like(x), x, y])[None].double().to(device)
    rois = torch.tensor([[0.0, 30.5, 25.5, 20, 12, angle] for angle in (0.0, 17.0, 45.0, 133.0, -70.0)]).double()
    out = ops.roi_align_rotated(features, rois.to(device), (3, 5), 1.0, 4).cpu()
    for roi, pooled in zip(rois, out, strict=True):
        angle = torch.deg2rad(roi[5])
        v = (torch.arange(3).double() + 0.5) * 4 - 6
        u = (torch.arange(5).double() + 0.5) * 4 - 10
        xs = v[:, None] * angle.sin() + u * angle.cos() + 30
        ys = v[:, None] * angle.cos() - u * angle.sin() + 25
        torch.testing.assert_close(pooled, torch.stack([torch.ones_like(xs), xs, ys]))


def test_layouts_agree_and_are_kept(device: torch.device) -> None:
    for channels in (16, 20):
        features = data.feature_map(2, channels, 8, 9).to(device)
        rois = data.random_rotated_rois(5, 2, 8.0, 9.0).to(device)
        last = features.to(memory_format=torch.channels_last)
        plain, kept = (pooled_and_gradient(ops.roi_align_rotated, f, rois, 3) for f in (features, last))
        assert plain[0].is_contiguous() and plain[1].is_contiguous()
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in kept)
        assert torch.equal(plain[0], kept[0]) and torch.equal(plain[1], kept[1])


def test_nothing_to_pool(device: torch.device) -> None:
    features, none = data.feature_map(2, 3, 8, 9).to(device), torch.zeros(0, 6, device=device)
    out, gradient = pooled_and_gradient(ops.roi_align_rotated, features, none, (3, 2))
    assert out.shape == (0, 3, 3, 2) and gradient.shape == features.shape and not gradient.any()
    assert ops.roi_align_rotated(features[:0], none, 2).shape == (0, 3, 2, 2)
    roi = torch.tensor([[0.0, 4, 4, 4, 4, 30]], device=device)
    assert not ops.roi_align_rotated(features[:, :, :0], roi, 2).any()


@pytest.mark.parametrize("ratio", [2, 0])
def test_nan_and_infinite_rois_are_zero(ratio: int, device: torch.device) -> None:
    features = data.feature_map(1, 4, 8, 9).to(device)
    bad = torch.tensor([[0.0, 4, 4, 6, 6, 30]]).repeat(15, 1)
    for i, value in enumerate((NAN, INF, -INF)):
        for column in range(5):
            bad[5 * i + column, 1 + column] = value
    out, gradient = pooled_and_gradient(ops.roi_align_rotated, features, bad.to(device), 3, 1.0, ratio)
    assert not out.any() and not gradient.any()


@pytest.mark.parametrize("size", [1e4, 1e6, 1e9, 1e15, 1e20, 3e38])
@pytest.mark.parametrize("ratio", [2, 0])
def test_enormous_rois_are_bounded_work(size: float, ratio: int, device: torch.device) -> None:
    features = data.feature_map(1, 2, 8, 9).to(device)
    rois = torch.tensor(
        [[0.0, 4, 4, size, size, 30], [0, 4, 4, size, 1, 45], [0, size, 4, size, size, 3]], device=device
    )
    out, gradient = pooled_and_gradient(ops.roi_align_rotated, features, rois, 3, 1.0, ratio)
    assert out.isfinite().all() and gradient.isfinite().all()


def test_image_index_out_of_range(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    features = data.feature_map(2, 3, 8, 9).to(device)
    message = r"roi_align_rotated: expected rois\[0, 0\], the image of the roi, in \[0, 2\)"
    for index in (2.0, -1.0, NAN, 1e30):
        rois = torch.tensor([[index, 4, 4, 4, 4, 30]], device=device)
        if device.type == "cpu" and fastvision.BACKEND == "native":
            with pytest.raises(IndexError, match=message):
                ops.roi_align_rotated(features, rois, 2)
        else:
            assert not ops.roi_align_rotated(features, rois, 2).any()
    monkeypatch.setenv("FASTVISION_CHECK", "1")
    with pytest.raises(IndexError, match=message):
        ops.roi_align_rotated(features, rois, 2)


def test_bad_arguments(device: torch.device) -> None:
    features, rois = torch.zeros(1, 3, 8, 9, device=device), torch.zeros(1, 6, device=device)
    op = ops.roi_align_rotated
    with pytest.raises(ValueError, match=r"roi_align_rotated: expected rois of shape \[N, 6\], got \[1, 5\]"):
        op(features, rois[:, 1:], 2)
    with pytest.raises(ValueError, match=r"expected a list of boxes of shape \[K, 5\], got \[1, 6\]"):
        op(features, [rois], 2)
    with pytest.raises(ValueError, match=r"expected a feature map of shape \[N, C, H, W\]"):
        op(features[0], rois, 2)
    with pytest.raises(ValueError, match="expected sampling_ratio <= 1024, got 2000"):
        op(features, rois, 2, 1.0, 2000)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_rounded_once(dtype: torch.dtype, layout: Any, device: torch.device) -> None:
    features = data.feature_map(1, 32, 20, 21).to(device, dtype).to(memory_format=layout)
    rois = data.random_rotated_rois(20, 1, 20.0, 21.0).to(device)
    out = ops.roi_align_rotated(features, rois, 3, 1.0, 2)
    exact = ops.roi_align_rotated(features.float(), rois, 3, 1.0, 2).double()  # the same samples, not rounded
    ulp = torch.finfo(dtype).eps * exact.abs().clamp(min=2**-6)
    assert ((out.double() - exact).abs() <= 2 * ulp).all()


@LAYOUTS
def test_bitwise_repeatable(layout: Any, device: torch.device) -> None:
    features = data.feature_map(2, 130, 20, 21).to(device).to(memory_format=layout)
    rois = data.random_rotated_rois(20, 2, 20.0, 21.0).to(device)
    bitwise_repeatable(lambda: pooled_and_gradient(ops.roi_align_rotated, features, rois, 3))


def test_more_than_two_to_the_31_elements() -> None:
    """On the CPU other layouts are copied, so this one is a batch of small maps in place."""
    meta = torch.empty(64, 4096, 128, 128, device="meta", requires_grad=True)
    out = ops.roi_align_rotated(meta, torch.empty(5, 6, device="meta"), 7)
    assert out.shape == (5, 4096, 7, 7)
    assert torch.autograd.grad(out.sum(), meta)[0].shape == meta.shape


@pytest.mark.slow
def test_many_rois_and_images(device: torch.device) -> None:
    features = data.feature_map(64, 2, 6, 7).to(device)
    rois = data.random_rotated_rois(100_000, 64, 24.0, 28.0).to(device)
    out, gradient = pooled_and_gradient(ops.roi_align_rotated, features, rois, 1, 0.25, 1)
    weight = torch.linspace(-1, 1, out.numel(), device=device).reshape(out.shape)
    # the backward is the transpose of the forward
    total = float((out.detach() * weight).abs().double().sum())
    assert total > 0
    assert abs(float((out * weight).double().sum() - (gradient * features).double().sum())) < 1e-5 * total


def test_module(device: torch.device) -> None:
    features = data.feature_map(1, 3, 8, 9).to(device)
    rois = data.random_rotated_rois(4, 1, 16.0, 18.0).to(device)
    module = ops.RoIAlignRotated((3, 2), 0.5, 2, clockwise=True)
    assert torch.equal(module(features, rois), ops.roi_align_rotated(features, rois, (3, 2), 0.5, 2, clockwise=True))
    assert repr(module) == (
        "RoIAlignRotated(output_size=(3, 2), spatial_scale=0.5, sampling_ratio=2, aligned=True, clockwise=True)"
    )
