"""crop_and_resize: R-CNN's warp on images whose crops are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from roi_checks import bitwise_repeatable, pooled_and_gradient
from torch.nn import functional as F

from fastvision import ops
from fastvision.testing import data


def test_a_whole_image_is_itself(device: torch.device) -> None:
    images = data.feature_map(2, 3, 9, 11).to(device)
    rois = torch.tensor([[1.0, 0, 0, 11, 9], [0, 0, 0, 11, 9]], device=device)
    torch.testing.assert_close(ops.crop_and_resize(images, rois, (9, 11)), images.flip(0))


@pytest.mark.parametrize("factor", [2, 3, 7])
def test_growing_is_bilinear_interpolation(factor: int, device: torch.device) -> None:
    images = data.feature_map(1, 3, 9, 11).to(device)
    rois = torch.tensor([[0.0, 0, 0, 11, 9]], device=device)
    expected = F.interpolate(images, scale_factor=factor, mode="bilinear", align_corners=False)
    out = ops.crop_and_resize(images, rois, (9 * factor, 11 * factor), sampling_ratio=1)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_shrinking_by_whole_numbers_averages_blocks(device: torch.device) -> None:
    images = data.feature_map(1, 3, 12, 18).to(device)
    rois = torch.tensor([[0.0, 0, 0, 18, 12]], device=device)
    out = ops.crop_and_resize(images, rois, (4, 6))
    torch.testing.assert_close(out, F.avg_pool2d(images, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "context"), [((227, 227), 16), ((40, 30), 5)])
def test_context_surrounds_the_box(size: tuple[int, int], context: int, device: torch.device) -> None:
    """Exactly so many pixels of surroundings on each side of the box."""
    image = torch.zeros(1, 1, 100, 120, device=device)
    image[:, :, 30:60, 40:80] = 1
    out = ops.crop_and_resize(image, torch.tensor([[0.0, 40, 30, 80, 60]], device=device), size, context=context)[0, 0]
    edge = int(size[0] / 30 / 2) + 2  # half a pixel of the image, which interpolation blurs
    inside = out[context:-context, context:-context]
    assert (inside[edge:-edge, edge:-edge] - 1).abs().max() < 1e-5
    assert abs(float(inside.mean()) - 1) < 0.1
    frame = out.clone()
    frame[context - edge : -context + edge, context - edge : -context + edge] = 0
    assert frame.abs().max() < 1e-5


@pytest.mark.parametrize("mean", [7.0, (7.0, -2.0, 0.5), torch.tensor([7.0, -2.0, 0.5]), None], ids=str)
def test_the_mean_is_outside(mean: Any, device: torch.device) -> None:
    images = data.feature_map(2, 3, 20, 20).to(device)
    rois = torch.tensor([[1.0, -10, 0, 10, 20], [0, 100, 100, 120, 120]], device=device)
    out = ops.crop_and_resize(images, rois, 20, mean=mean)
    values = [
        images[i].mean((1, 2)) if mean is None else torch.as_tensor(mean, device=device).expand(3) for i in (1, 0)
    ]
    torch.testing.assert_close(out[0, :, :, :9], values[0][:, None, None].expand(3, 20, 9))
    torch.testing.assert_close(out[1], values[1][:, None, None].expand(3, 20, 20))
    torch.testing.assert_close(out[0, :, :, 10:], images[1, :, :, :10], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_dtypes(dtype: torch.dtype, device: torch.device) -> None:
    images = (data.feature_map(1, 3, 20, 21).abs() * 60).clamp(0, 255).to(device, dtype)
    rois = data.random_rois(5, 1, 20.0, 21.0).to(device)
    out = ops.crop_and_resize(images, rois, 16, context=2)
    exact = ops.crop_and_resize(images.double(), rois, 16, context=2)
    assert out.dtype == (torch.float32 if dtype == torch.uint8 else dtype)
    ulp = torch.finfo(out.dtype).eps * exact.abs().clamp(min=2**-6)
    bound = 2 * ulp if dtype in (torch.float16, torch.bfloat16) else 1e-3 * torch.ones_like(exact)
    assert ((out.double() - exact).abs() <= bound).all()


def test_nan_boxes_are_the_mean(device: torch.device) -> None:
    images = data.feature_map(1, 3, 20, 20).to(device)
    rois = torch.tensor([[0.0, float("nan"), 0, 10, 20], [0, 0, 0, float("inf"), 9]], device=device)
    assert (ops.crop_and_resize(images, rois, 5, context=1, mean=3.0) == 3).all()


def test_nothing_to_crop(device: torch.device) -> None:
    images, none = data.feature_map(2, 3, 8, 9).to(device), torch.zeros(0, 5, device=device)
    out, gradient = pooled_and_gradient(ops.crop_and_resize, images, none, 4)
    assert out.shape == (0, 3, 4, 4) and not gradient.any()
    assert ops.crop_and_resize(images[:0], none, 4).shape == (0, 3, 4, 4)
    roi = torch.tensor([[0.0, 1, 1, 4, 4]], device=device)
    assert not ops.crop_and_resize(images[:, :, :0], roi, 4).any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 10, "context": 5}, r"expected 0 <= 2 \* context < 10, the size, got 5"),
        ({"size": 10, "context": -1}, r"expected 0 <= 2 \* context < 10, the size, got -1"),
        ({"size": 10, "mean": (1.0, 2.0)}, r"expected a mean for each of 3 channels, got \[2\]"),
    ],
)
def test_bad_arguments(kwargs: Any, message: str, device: torch.device) -> None:
    images, rois = torch.zeros(1, 3, 8, 9, device=device), torch.zeros(1, 5, device=device)
    with pytest.raises(ValueError, match="crop_and_resize: " + message):
        ops.crop_and_resize(images, rois, **kwargs)
    for wrong in (rois[:, :4], torch.zeros(1, 6, device=device), rois[0]):
        with pytest.raises(ValueError, match=r"expected boxes of shape \[K, 5\]"):
            ops.crop_and_resize(images, wrong, 10, context=2)
    with pytest.raises(IndexError, match="expected no boxes without images, got 1"):
        ops.crop_and_resize(images[:0], rois, 10)
    with pytest.raises(ValueError, match=r"expected images of shape \[N, C, H, W\], got \[3, 8, 9\]"):
        ops.crop_and_resize(images[0], rois, 4)


def test_bitwise_repeatable(device: torch.device) -> None:
    images, rois = data.feature_map(2, 3, 30, 31).to(device), data.random_rois(40, 2, 30.0, 31.0).to(device)
    bitwise_repeatable(lambda: pooled_and_gradient(ops.crop_and_resize, images, rois, 12))
