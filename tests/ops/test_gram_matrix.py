"""Gram matrices: against torch.bmm, at the edges, and what the papers say of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from roi_checks import bitwise_repeatable
from style_checks import divisor, product
from torch import Tensor

from fastvision import _library, ops
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
NORMALIZE = pytest.mark.parametrize("normalize", ["chw", "hw", "none"])


@LAYOUTS
@NORMALIZE
@pytest.mark.parametrize(
    "size", [(2, 1, 3, 5), (1, 3, 40, 61), (3, 64, 1, 1), (2, 130, 4, 4), (1, 520, 9, 10)], ids=str
)
def test_equals_torch(size: tuple[int, ...], normalize: Any, layout: Any, device: torch.device) -> None:
    features = data.feature_map(*size).to(device).to(memory_format=layout).requires_grad_()
    wide = features.detach().double().requires_grad_()
    actual, expected = ops.gram_matrix(features, normalize), product(wide) / divisor(wide, normalize)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    weight = torch.linspace(-1, 1, actual.numel(), device=device).reshape(actual.shape)
    (found,) = torch.autograd.grad(actual, features, weight)
    (wanted,) = torch.autograd.grad(expected, wide, weight.double())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(actual, actual.transpose(1, 2))


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype, layout: Any, device: torch.device) -> None:
    features = data.feature_map(2, 20, 9, 10).to(device, dtype).to(memory_format=layout)
    gram = ops.gram_matrix(features, "hw")
    assert gram.dtype == dtype and torch.equal(gram, gram.mT)
    expected = product(features) / 90
    # one rounding of half types
    tolerance = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
    torch.testing.assert_close(gram.double(), expected, rtol=tolerance, atol=tolerance)


@LAYOUTS
@pytest.mark.parametrize(
    "size", [(2, 5, 1, 1), (1, 33, 3, 3), (2, 17, 4, 5), (1, 70, 31, 45), (1, 96, 40, 64)], ids=str
)
def test_pixels_of_bfloat16_in_pairs(size: tuple[int, ...], layout: Any, device: torch.device) -> None:
    """Some processors multiply two at once: of odd planes one is left over, and a view may begin at any number."""
    b, c, h, w = size
    numbers = torch.randn(b * c * h * w + 1, generator=data.generator(c)).bfloat16().to(device)[1:]
    features = numbers.view(size) if layout == torch.contiguous_format else numbers.view(b, h, w, c).permute(0, 3, 1, 2)
    targets = torch.zeros(c, c, device=device, dtype=torch.float64)
    exact = product(features.double())
    torch.testing.assert_close(
        ops.gram_matrix(features, "none").double(), exact, rtol=2**-8, atol=1e-5 * exact.abs().max().item()
    )
    loss = ops.style_loss([features], [targets], normalize="none")
    torch.testing.assert_close(loss.double(), exact.square().sum() / b, rtol=1e-5, atol=0)


@NORMALIZE
def test_without_a_batch(normalize: Any, device: torch.device) -> None:
    features = data.feature_map(1, 6, 5, 7).to(device)
    assert torch.equal(ops.gram_matrix(features[0], normalize), ops.gram_matrix(features, normalize)[0])
    region = torch.rand(5, 7, generator=data.generator()).to(device)
    alone = ops.gram_matrix(features[0], normalize, weight_map=region)
    assert torch.equal(alone, ops.gram_matrix(features, normalize, weight_map=region)[0])


def test_strides_of_any_kind(device: torch.device) -> None:
    wide = data.feature_map(4, 12, 10, 18).to(device)
    for view in (wide[:, ::2, :, ::3], wide.transpose(2, 3), wide[::2], wide[:1].expand(3, -1, -1, -1), wide.mT[:, 1:]):
        torch.testing.assert_close(ops.gram_matrix(view), ops.gram_matrix(view.contiguous()), rtol=1e-5, atol=1e-5)
        leaf = view.detach().requires_grad_()
        grad = torch.eye(view.shape[1], device=device)[None].expand(len(view), -1, -1)  # of stride 0
        (found,) = torch.autograd.grad(ops.gram_matrix(leaf, "none"), leaf, grad)
        torch.testing.assert_close(found, 2 * view)


def test_an_image_does_not_depend_on_its_batch(device: torch.device) -> None:
    features = data.feature_map(3, 40, 17, 19).to(device)
    batch = ops.gram_matrix(features)
    assert all(torch.equal(batch[i], ops.gram_matrix(features[i])) for i in range(3))


def test_float16_does_not_overflow(device: torch.device) -> None:
    features = torch.full((1, 2, 128, 128), 200.0, device=device, dtype=torch.float16)
    rows = features.flatten(2)
    assert (torch.bmm(rows, rows.transpose(1, 2)) / rows.shape[2]).isinf().all()  # what is to be avoided
    leaf = features.requires_grad_()
    gram = ops.gram_matrix(leaf, "hw")
    assert (gram == 200.0**2).all()
    gram.sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()
    assert (ops.gram_matrix(features, "chw") == 200.0**2 / 2).all()
    loss = ops.style_loss([features], [torch.zeros(2, 2, device=device)], normalize="hw")
    assert loss.dtype == torch.float32 and loss == 4 * 200.0**4


def test_bad_pixels_reach_their_channel_only(device: torch.device) -> None:
    features = data.feature_map(1, 5, 6, 7).to(device)
    features[0, 2, 3, 3], features[0, 4, 0, 0] = float("nan"), float("inf")
    finite = ops.gram_matrix(features)[0].isfinite()
    bad = torch.tensor([False, False, True, False, True], device=device)
    assert torch.equal(finite, ~(bad[:, None] | bad[None]))


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_infinities_stay_infinities(layout: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Where all else is positive, none becomes NaN: not in the parts of a number either."""
    features = (data.feature_map(1, 70, 7, 9).abs() + 0.5).to(device, dtype).to(memory_format=layout)
    features[0, 4, 2, 3] = float("inf")
    leaf = features.requires_grad_()
    gram = ops.gram_matrix(leaf, "hw")
    hit = torch.arange(70, device=device) == 4
    assert torch.equal(gram[0] == float("inf"), hit[:, None] | hit[None]) and not gram.isnan().any()
    (gradient,) = torch.autograd.grad(gram, leaf, torch.ones_like(gram))
    pixel = torch.zeros(7, 9, dtype=torch.bool, device=device)
    pixel[2, 3] = True
    assert torch.equal(gradient[0] == float("inf"), pixel.expand(70, 7, 9)) and not gradient.isnan().any()


def test_float32_keeps_its_bits(device: torch.device) -> None:
    """Sums of positive numbers, which round in one direction if anything does."""
    features = (data.feature_map(1, 20, 96, 100).abs() + 0.5).to(device)
    torch.testing.assert_close(ops.gram_matrix(features, "hw").double(), product(features) / 9600, rtol=2e-6, atol=0)


@LAYOUTS
@pytest.mark.parametrize("size", [(2, 64, 50, 70), (1, 520, 9, 10)], ids=str)
def test_bitwise_repeatable(size: tuple[int, ...], layout: Any, device: torch.device) -> None:
    features = data.feature_map(*size).to(device).to(memory_format=layout).requires_grad_()
    target = torch.eye(size[1], device=device)

    def results() -> tuple[Tensor, ...]:
        gram = ops.gram_matrix(features)
        loss = ops.style_loss([features, features[:, :9]], [target, target[:9, :9]])
        return gram, loss, *torch.autograd.grad(gram.square().sum() + loss, features)

    bitwise_repeatable(results)


def test_no_images_no_pixels_no_channels(device: torch.device) -> None:
    for shape in [(0, 3, 4, 5), (2, 3, 0, 5), (2, 0, 4, 5)]:
        features = torch.zeros(shape, device=device, requires_grad=True)
        gram = ops.gram_matrix(features)
        assert gram.shape == (shape[0], shape[1], shape[1]) and not gram.any()
        loss = ops.style_loss([features], [torch.zeros(shape[1], shape[1], device=device)])
        (gradient,) = torch.autograd.grad(gram.sum() + loss, features)
        assert loss == 0 and gradient.shape == shape and not gradient.any()
    target = torch.full((3, 3), 2.0, device=device)
    none, empty = (torch.zeros(shape, device=device) for shape in [(0, 3, 4, 5), (2, 3, 0, 5)])
    assert ops.style_loss([none], [target]) == 0
    assert ops.style_loss([empty, none], [target, target]) == 9 * 4


@pytest.mark.parametrize("level", [1.0, 0.3])
def test_a_region_is_its_crop(level: float, device: torch.device) -> None:
    """Of whatever size, and however strong its map."""
    features = data.feature_map(2, 6, 12, 15).to(device)
    region = torch.zeros(2, 12, 15, device=device)
    region[0, 2:7, 3:11] = region[1, :5, 7:] = level
    grams = ops.gram_matrix(features, "hw", weight_map=region)
    for gram, crop in zip(grams, (features[0, :, 2:7, 3:11], features[1, :, :5, 7:]), strict=True):
        torch.testing.assert_close(gram, ops.gram_matrix(crop, "hw"), rtol=1e-5, atol=1e-5)
    unscaled = ops.gram_matrix(features, "none", weight_map=region)[0]
    expected = ops.gram_matrix(features[0, :, 2:7, 3:11], "none") * level**2
    torch.testing.assert_close(unscaled, expected, rtol=1e-5, atol=1e-4)


def test_an_empty_region_is_zero(device: torch.device) -> None:
    features = data.feature_map(1, 4, 5, 6).to(device).requires_grad_()
    region = torch.zeros(5, 6, device=device, requires_grad=True)
    gram = ops.gram_matrix(features, weight_map=region)
    assert not gram.any() and all(g.isfinite().all() for g in torch.autograd.grad(gram.sum(), (features, region)))


def test_bad_features(device: torch.device) -> None:
    good = torch.zeros(1, 3, 4, 5, device=device)
    with pytest.raises(ValueError, match=r"gram_matrix: expected features of shape \[B, C, H, W\] or .*, got \[4, 5\]"):
        ops.gram_matrix(good[0, 0])
    with pytest.raises(ValueError, match='gram_matrix: expected normalize "chw", "hw" or "none", got \'c\''):
        ops.gram_matrix(good, "c")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="gram_matrix: expected features of dtype float32, float64, float16"):
        ops.gram_matrix(good.long())
    with pytest.raises(ValueError, match=r"weight_map of shape \[4, 5\], or 1 of them, got \[5, 4\]"):
        ops.gram_matrix(good, weight_map=torch.ones(5, 4, device=device))
    with pytest.raises(ValueError, match=r"gram_matrix: expected features of shape \[B, C, H, W\], got \[4, 2\]"):
        torch.ops.fastvision.gram_matrix(good[0, 0, :, ::3], 1)
    with pytest.raises(ValueError, match=r"_backward: expected grad of shape \[1, 3, 3\], got \[1, 3, 2\]"):
        torch.ops.fastvision.gram_matrix_backward(torch.zeros(1, 3, 2, device=device), good, 1)
    with pytest.raises(ValueError, match="_backward: expected grad of dtype float32"):
        torch.ops.fastvision.gram_matrix_backward(torch.zeros(1, 3, 3, device=device).long(), good, 1)


def test_float16_second_derivative_does_not_overflow(device: torch.device) -> None:
    x = torch.full((1, 8, 128, 128), 8.0, device=device).half().requires_grad_()
    target = torch.zeros(8, 8, device=device)
    seconds = []
    for op, features in ((ops.style_loss, x), (ops.style_loss.reference, x.detach().double().requires_grad_())):
        (first,) = torch.autograd.grad(op([features], [target]), features, create_graph=True)
        seconds.append(torch.autograd.grad(first.double().sum(), features)[0].double())
    torch.testing.assert_close(*seconds, rtol=5e-3, atol=1e-6)


def test_small_regions_of_float16_do_not_overflow(device: torch.device) -> None:
    region = torch.zeros(512, 512, device=device).half()
    region[0, 0] = 1
    features = torch.full((1, 2, 512, 512), 300.0, device=device).half()
    assert torch.equal(ops.gram_matrix(features, weight_map=region), torch.full_like(features[:, :, :2, 0], 45000.0))
    # the scale of a map means nothing
    plain = ops.gram_matrix(features.float(), weight_map=torch.ones(512, 512, device=device))
    for scale in (1e-25, 1e25):
        scaled = torch.full((512, 512), scale, device=device)
        torch.testing.assert_close(ops.gram_matrix(features.float(), weight_map=scaled), plain)


def test_sizes_may_vary_under_a_compiler(device: torch.device) -> None:
    compiled = torch.compile(lambda x: ops.gram_matrix(x), fullgraph=True, backend="eager", dynamic=True)
    for height in range(5, 20):
        x = torch.randn(2, 4, height, height + 1, device=device)
        torch.testing.assert_close(compiled(x), ops.gram_matrix(x))
    torch._dynamo.reset()
