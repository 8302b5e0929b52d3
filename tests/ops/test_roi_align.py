"""roi_align at the edges, against torchvision where it is installed, and bitwise repeatable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing import data

NAN = float("nan")


def pooled_and_gradient(op: Any, features: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    leaf = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = op(leaf, *args)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    (gradient,) = torch.autograd.grad((out * weight).sum(), leaf)
    return out, gradient


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("channels", [1, 16, 37])
def test_equals_torchvision(layout: Any, ratio: int, aligned: bool, channels: int, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    features = data.feature_map(2, channels, 25, 34).to(device).to(memory_format=layout)
    rois = data.random_rois(24, 2, 100.0, 136.0).to(device)
    rois[0, 1:] = torch.tensor([-20.0, -20.0, 300.0, 300.0])
    rois[1, 1:] = torch.tensor([90.0, 70.0, 20.0, 30.0])  # inverted
    args = (rois, 7, 0.25, ratio, aligned)
    ours, theirs = (pooled_and_gradient(f, features, *args) for f in (ops.roi_align, torchvision.ops.roi_align))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    scale = theirs[1].abs().max()
    torch.testing.assert_close(ours[1] / scale, theirs[1] / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [16, 20])
def test_channels_last_is_kept(channels: int, device: torch.device) -> None:
    features = data.feature_map(2, channels, 8, 9).to(device).to(memory_format=torch.channels_last)
    out, gradient = pooled_and_gradient(ops.roi_align, features, data.random_rois(5, 2, 8.0, 9.0).to(device), 3)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    plain = pooled_and_gradient(ops.roi_align, features.contiguous(), data.random_rois(5, 2, 8.0, 9.0).to(device), 3)
    assert plain[0].is_contiguous() and plain[1].is_contiguous()


def test_no_rois_give_zero_gradients(device: torch.device) -> None:
    features = data.feature_map(2, 3, 8, 9).to(device)
    out, gradient = pooled_and_gradient(ops.roi_align, features, torch.zeros(0, 5, device=device), (3, 2))
    assert out.shape == (0, 3, 3, 2) and gradient.shape == features.shape and not gradient.any()


def test_empty_batch_and_empty_map(device: torch.device) -> None:
    none = torch.zeros(0, 5, device=device)
    assert ops.roi_align(torch.zeros(0, 3, 8, 9, device=device), none, 2).shape == (0, 3, 2, 2)
    roi = torch.tensor([[0.0, 1, 1, 4, 4]], device=device)
    assert not ops.roi_align(torch.zeros(1, 3, 0, 9, device=device), roi, 2).any()


@pytest.mark.parametrize("ratio", [2, 0])
def test_nan_and_infinite_rois_are_zero(ratio: int, device: torch.device) -> None:
    features = data.feature_map(1, 4, 8, 9).to(device)
    good = torch.tensor([[0.0, 1, 1, 6, 6]])
    bad = good.repeat(12, 1)
    for i, value in enumerate((NAN, float("inf"), -float("inf"))):
        for column in range(4):
            bad[4 * i + column, 1 + column] = value
    out, gradient = pooled_and_gradient(ops.roi_align, features, bad.to(device), 3, 1.0, ratio)
    assert not out.any() and not gradient.any()
    both = ops.roi_align(features, torch.cat([bad, good]).to(device), 3, 1.0, ratio)
    assert both[-1].any() and torch.equal(both[-1:], ops.roi_align(features, good.to(device), 3, 1.0, ratio))


def test_rois_outside_are_zero(device: torch.device) -> None:
    features = data.feature_map(1, 4, 8, 9).to(device)
    rois = torch.tensor([[0.0, 100, 100, 120, 120], [0, -50, -50, -20, -20], [0, 1e6, 0, 1e6 + 5, 5]], device=device)
    for ratio in (2, 0):
        assert not ops.roi_align(features, rois, 3, 1.0, ratio).any()


@pytest.mark.parametrize("size", [1e4, 1e9, 1e20, 3e38])
def test_enormous_adaptive_roi_is_bounded_work(size: float, device: torch.device) -> None:
    """Only samples inside the map are visited; the mean divides by all of them."""
    features = torch.ones(1, 2, 8, 9, device=device)
    roi = torch.tensor([[0.0, -size, -size, size, size]], device=device)
    out, gradient = pooled_and_gradient(ops.roi_align, features, roi, 3, 1.0, 0)
    assert torch.isfinite(out).all() and torch.isfinite(gradient).all()
    # the middle bin holds the whole map: (8 + 1) x (9 + 1) of its (2 size / 3)^2 samples, give or take the rounding of
    # float32 coordinates
    assert out.max() <= 2 * 90 / (2 * size / 3) ** 2


def test_rois_from_afar(device: torch.device) -> None:
    """Coordinates of 4e8 pixels are multiples of 32; what their samples touch is decided by the same rounding."""
    g = data.generator(5)
    features = data.feature_map(1, 2, 40, 40).to(device)
    rois = torch.rand(100, 5, generator=g) * 60 - 30
    rois[:, 0] = 0
    rois[:50, 1:3] -= 4e8 * (1 + torch.rand(50, 2, generator=g))
    rois[50:, 3:] += 4e8 * (1 + torch.rand(50, 2, generator=g))
    for roi in rois.to(device).split(1):
        out, gradient = pooled_and_gradient(ops.roi_align, features, roi, 7, 1.0, 0)
        weight = torch.linspace(-1, 1, out.numel(), device=device).reshape(out.shape)
        # the backward is the transpose of the forward, to the last roi
        forward, backward = out * weight, gradient * features
        torch.testing.assert_close(
            forward.sum(), backward.sum(), rtol=0, atol=1e-4 * float(forward.detach().abs().sum())
        )
    assert ops.roi_align(features, rois.to(device), 7, 1.0, 0).any()


def test_image_index_out_of_range(device: torch.device) -> None:
    features = data.feature_map(2, 3, 8, 9).to(device)
    for index in (2.0, -1.0, NAN, 1e30):
        rois = torch.tensor([[index, 1, 1, 4, 4]], device=device)
        if device.type == "cpu" and fastvision.BACKEND == "native":
            with pytest.raises(
                IndexError, match=r"roi_align: expected rois\[0, 0\], the image of the roi, in \[0, 2\)"
            ):
                ops.roi_align(features, rois, 2)
        else:
            assert not ops.roi_align(features, rois, 2).any()


def test_image_index_is_checked_on_request(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros are the quiet answer of a GPU; FASTVISION_CHECK=1 makes it raise there too."""
    monkeypatch.setenv("FASTVISION_CHECK", "1")
    features = data.feature_map(2, 3, 8, 9).to(device)
    good = torch.tensor([[1.0, 1, 1, 4, 4]], device=device)
    assert ops.roi_align(features, good, 2).any()
    with pytest.raises(IndexError, match=r"expected rois\[1, 0\], the image of the roi, in \[0, 2\)"):
        ops.roi_align(features, torch.cat([good, good + 1]), 2)


@pytest.mark.parametrize(
    ("features", "rois", "message"),
    [
        ((2, 3, 8), (1, 5), r"expected a feature map of shape \[N, C, H, W\], got \[2, 3, 8\]"),
        ((2, 3, 8, 9), (1, 4), r"expected rois of shape \[N, 5\], got \[1, 4\]"),
        ((2, 3, 8, 9), (5,), r"expected rois of shape \[N, 5\], got \[5\]"),
    ],
)
def test_bad_shapes(features: Any, rois: Any, message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match="roi_align: " + message) as caught:
        ops.roi_align(torch.zeros(features, device=device), torch.zeros(rois, device=device), 2)
    assert ".cpp" not in str(caught.value)


def test_bad_output_size_and_dtype(device: torch.device) -> None:
    features, rois = torch.zeros(1, 3, 8, 9, device=device), torch.zeros(1, 5, device=device)
    with pytest.raises(ValueError, match=r"expected a positive output size, got \[0, 2\]"):
        ops.roi_align(features, rois, (0, 2))
    with pytest.raises(ValueError, match="expected the feature map of dtype"):
        ops.roi_align(features.long(), rois, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_half_is_rounded_once(dtype: torch.dtype, layout: Any, device: torch.device) -> None:
    """Sums are float32: the result is the float64 result, rounded to storage, within two units in the last place."""
    features = data.feature_map(1, 32, 20, 21).to(device, dtype).to(memory_format=layout)
    rois = data.random_rois(20, 1, 20.0, 21.0).to(device)
    out = ops.roi_align(features, rois, 7, 1.0, 0)
    exact = ops.roi_align(features.double(), rois.double(), 7, 1.0, 0)
    ulp = torch.finfo(dtype).eps * exact.abs().clamp(min=2**-6)
    assert ((out.double() - exact).abs() <= 2 * ulp).all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_bitwise_repeatable(layout: Any, device: torch.device) -> None:
    """Run to run and across thread counts, also where torch is told to be deterministic."""
    features = data.feature_map(2, 40, 30, 31).to(device).to(memory_format=layout)
    rois = data.random_rois(60, 2, 30.0, 31.0).to(device)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            results.append(pooled_and_gradient(ops.roi_align, features, rois, 7, 1.0, 0, True))
        torch.use_deterministic_algorithms(True)
        results.append(pooled_and_gradient(ops.roi_align, features, rois, 7, 1.0, 0, True))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for out, gradient in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(gradient, results[0][1])


def test_more_than_two_to_the_31_elements() -> None:
    """Offsets are 64-bit: the last image of an expanded map."""
    base = data.feature_map(1, 1, 4, 5)
    batch = 2**23
    features = base.expand(batch, 17, 4, 5)
    assert features.numel() > 2**31
    roi = torch.tensor([[batch - 1.0, 0.5, 0.5, 3, 3]])
    out = ops.roi_align(features, roi, 2)
    expected = ops.roi_align(base, torch.tensor([[0, 0.5, 0.5, 3, 3]]), 2)
    torch.testing.assert_close(out, expected.expand(1, 17, 2, 2))


def test_offsets_of_a_huge_map_on_meta() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        features = torch.empty(64, 4096, 128, 128, device="meta").to(memory_format=layout).requires_grad_()
        assert features.numel() > 2**31
        out = ops.roi_align(features, torch.empty(5, 5, device="meta"), 7)
        (gradient,) = torch.autograd.grad(out.sum(), features)
        assert out.shape == (5, 4096, 7, 7) and gradient.shape == features.shape
        assert gradient.is_contiguous(memory_format=layout)


def test_empty_gradient_map(device: torch.device) -> None:
    backward = torch.ops.fastvision.roi_align_backward
    grad, roi = torch.ones(1, 1, 2, 2, device=device), torch.tensor([[0.0, 0, 0, 3, 3]], device=device)
    assert backward(grad, roi, 1.0, 1, 2**30, 0, 2, False, False, False).shape == (1, 1, 2**30, 0)


@pytest.mark.parametrize("size", [(1, 70), (300, 2), (40, 33)])
def test_many_bins(size: tuple[int, int], device: torch.device) -> None:
    features = data.feature_map(1, 2, 9, 40).to(device, torch.float64)
    rois = torch.tensor([[0.0, 1, 1, 38, 8]], device=device, dtype=torch.float64)
    ours, plain = (pooled_and_gradient(f, features, rois, size) for f in (ops.roi_align, ops.roi_align.reference))
    torch.testing.assert_close(ours, plain)


def test_many_images_and_enormous_output(device: torch.device) -> None:
    many = torch.ones(70_000, 1, 1, 1, device=device)
    rois = torch.tensor([[65_999.0, 0, 0, 1, 1]], device=device)
    _, gradient = pooled_and_gradient(ops.roi_align, many, rois, 1)
    assert gradient.nonzero()[:, 0].tolist() == [65_999]
    none = torch.zeros(0, 5, device=device)
    out, gradient = pooled_and_gradient(ops.roi_align, many[:1], none, (100_000, 100_000))
    assert out.shape == (0, 1, 100_000, 100_000) and not gradient.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_many_rois_on_a_batch_of_64(layout: Any, device: torch.device) -> None:
    features = data.feature_map(64, 16, 6, 7).to(device).to(memory_format=layout)
    rois = data.random_rois(100_000, 64, 24.0, 28.0).to(device)
    out = ops.roi_align(features, rois, 2, 0.25, 2)
    some = torch.arange(0, 100_000, 997, device=device)
    torch.testing.assert_close(out[some], ops.roi_align.reference(features, rois[some], 2, 0.25, 2))


@pytest.mark.slow
def test_gradients_of_many_rois_on_a_batch_of_64(device: torch.device) -> None:
    features = data.feature_map(64, 2, 6, 7).to(device)
    rois = data.random_rois(100_000, 64, 24.0, 28.0).to(device)
    out, gradient = pooled_and_gradient(ops.roi_align, features, rois, 2, 0.25, 2)
    weight = torch.linspace(-1, 1, out.numel(), device=device).reshape(out.shape)
    # the backward is the transpose of the forward
    total = float((out.detach() * weight).abs().double().sum())
    assert abs(float((out * weight).double().sum() - (gradient * features).double().sum())) < 1e-5 * total


def test_sampling_ratio_is_limited(device: torch.device) -> None:
    features, roi = torch.ones(1, 1, 4, 4, device=device), torch.tensor([[0.0, 0, 0, 3, 3]], device=device)
    torch.testing.assert_close(ops.roi_align(features, roi, 1, 1.0, 2**18), torch.ones(1, 1, 1, 1, device=device))
    with pytest.raises(ValueError, match="expected sampling_ratio <= 1024 with box_gradients, got 2000"):
        ops.roi_align(features, roi, 1, 1.0, 2000, box_gradients=True)
    with pytest.raises(ValueError, match="expected at most 1099511627776 bins, got 2097152 x 2097152"):
        ops.roi_align(features, roi, 2**21)
    with pytest.raises(ValueError, match="expected a height and width of at least 0 and less than 2147483647"):
        ops.roi_align(torch.ones(1, device=device).expand(1, 1, 2**31, 1), roi[:0], 1)
    with pytest.raises(ValueError, match="expected sampling_ratio <= 1048576, got 1099511627776"):
        ops.roi_align(features, roi, 1, 1.0, 2**40)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_lists_of_half_boxes_keep_their_images(dtype: torch.dtype, device: torch.device) -> None:
    features = torch.arange(300.0, device=device).reshape(300, 1, 1, 1)
    boxes = [torch.tensor([[0, 0, 1, 1]], dtype=dtype, device=device)] * 300
    assert torch.equal(ops.roi_align(features, boxes, 1).flatten(), features.flatten())
    assert ops.roi_align(features, [], 1).shape == (0, 1, 1, 1)


def test_bad_lists_and_sizes(device: torch.device) -> None:
    features, rois = torch.zeros(1, 3, 8, 9, device=device), torch.zeros(1, 5, device=device)
    with pytest.raises(ValueError, match=r"expected a list of boxes of shape \[K, 4\], got \[4\]"):
        ops.roi_align(features, [torch.zeros(4, device=device)], 2)
    with pytest.raises(ValueError, match="expected an output size of one or two integers"):
        ops.roi_align(features, rois, (2,))
    with pytest.raises(TypeError):
        ops.roi_align(features, rois, (2.7, 2.2))
    assert ops.roi_align(features, rois, np.int64(2)).shape == (1, 3, 2, 2)


def test_module(device: torch.device) -> None:
    features, rois = data.feature_map(1, 3, 8, 9).to(device), data.random_rois(4, 1, 16.0, 18.0).to(device)
    module = ops.RoIAlign((3, 2), 0.5, 2, aligned=True)
    assert torch.equal(module(features, rois), ops.roi_align(features, rois, (3, 2), 0.5, 2, True))
    assert repr(module) == "RoIAlign(output_size=(3, 2), spatial_scale=0.5, sampling_ratio=2, aligned=True)"
