"""total_variation_loss and content_loss at the edges, and bitwise repeatable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roi_checks import bitwise_repeatable
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing import data

NAN, INF = float("nan"), float("inf")
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
NORMS = pytest.mark.parametrize("norm", ["l1", "l2"])


def loss_and_gradient(op: Any, images: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
    leaf = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    losses = op(leaf, **kwargs)
    weight = torch.linspace(1, 2, losses.numel(), device=images.device, dtype=losses.dtype).reshape(losses.shape)
    return losses.detach(), torch.autograd.grad((losses * weight).sum(), leaf)[0]


def test_by_hand(device: torch.device) -> None:
    """1 3 / 0 2: to the right 2 and 2, below -1 and -1."""
    images = torch.tensor([[[[1.0, 3], [0, 2]]]], device=device)
    loss, gradient = loss_and_gradient(ops.total_variation_loss, images)
    assert loss == 10 and torch.equal(gradient, torch.tensor([[[[-2.0, 6], [-6, 2]]]], device=device))
    loss, gradient = loss_and_gradient(ops.total_variation_loss, images, norm="l1")
    assert loss == 6 and torch.equal(gradient, torch.tensor([[[[0.0, 2], [-2, 0]]]], device=device))


def test_absolute_differences_of_zero_have_no_slope(device: torch.device) -> None:
    loss, gradient = loss_and_gradient(ops.total_variation_loss, torch.ones(2, 3, 5, 6, device=device), norm="l1")
    assert loss == 0 and not gradient.any()


@NORMS
def test_reductions(norm: str, device: torch.device) -> None:
    images = data.feature_map(3, 2, 7, 8).to(device)
    each = ops.total_variation_loss(images, norm=norm, reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(ops.total_variation_loss(images, norm=norm, reduction="sum"), each.sum())
    torch.testing.assert_close(ops.total_variation_loss(images, norm=norm), each.mean())
    for n in range(3):
        assert torch.equal(ops.total_variation_loss(images[n : n + 1], norm=norm), each[n])


@NORMS
def test_nothing_to_compare(norm: str, device: torch.device) -> None:
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (2, 0, 4, 5), (2, 3, 1, 1)):
        loss, gradient = loss_and_gradient(ops.total_variation_loss, torch.ones(shape, device=device), norm=norm)
        assert loss == 0 and gradient.shape == shape and not gradient.any()


@NORMS
@LAYOUTS
def test_nan_and_infinity_stay_in_their_image(layout: Any, norm: str, device: torch.device) -> None:
    images = data.feature_map(3, 2, 7, 8).to(device).contiguous(memory_format=layout)
    clean = loss_and_gradient(ops.total_variation_loss, images, norm=norm, reduction="none")
    images[0, 1, 6, 7], images[1, 0, 0, 0] = NAN, INF
    loss, gradient = loss_and_gradient(ops.total_variation_loss, images, norm=norm, reduction="none")
    assert loss[0].isnan() and loss[1] == INF and torch.equal(loss[2], clean[0][2])
    assert torch.equal(gradient[2], clean[1][2]) and torch.equal(gradient[0, 0], clean[1][0, 0])
    assert gradient[0, 1, 6, 7].isnan() and gradient[1, 0, 0, 0] == (INF if norm == "l2" else 2) * gradient.new_tensor(
        1.5
    )


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_do_not_overflow(dtype: torch.dtype, layout: Any, device: torch.device) -> None:
    images = (data.feature_map(2, 3, 40, 50) * 1e4).to(device, dtype).to(memory_format=layout)
    loss = ops.total_variation_loss(images)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ops.total_variation_loss.reference(images.float()), rtol=1e-5, atol=0)


@NORMS
@LAYOUTS
def test_bitwise_repeatable(layout: Any, norm: str, device: torch.device) -> None:
    for shape in ((1, 3, 200, 170), (5, 2, 33, 20), (1, 1, 7, 20_000)):
        images = data.feature_map(*shape).to(device).to(memory_format=layout)
        bitwise_repeatable(lambda i=images: loss_and_gradient(ops.total_variation_loss, i, norm=norm))  # type: ignore[misc]


@NORMS
def test_layouts(norm: str, device: torch.device) -> None:
    images = data.feature_map(2, 3, 9, 11).to(device)
    plain = loss_and_gradient(ops.total_variation_loss, images, norm=norm)
    last = images.to(memory_format=torch.channels_last)
    for other in (last, images.transpose(2, 3).contiguous().transpose(2, 3)):
        loss, gradient = loss_and_gradient(ops.total_variation_loss, other, norm=norm)
        torch.testing.assert_close(loss, plain[0])
        assert torch.equal(gradient, plain[1])
        assert gradient.is_contiguous(memory_format=torch.channels_last) == (other is last)


def test_one_large_image_is_accurate(device: torch.device) -> None:
    images = data.feature_map(1, 3, 256, 300).to(device)
    exact = ops.total_variation_loss.reference(images.double())
    torch.testing.assert_close(ops.total_variation_loss(images).double(), exact, rtol=2e-7, atol=0)


@pytest.mark.skipif(fastvision.BACKEND == "emulated", reason="would take hours")
def test_more_than_two_to_the_31_elements(device: torch.device) -> None:
    row = data.feature_map(1, 1, 1, 2**10 + 1).to(device)
    loss = ops.total_variation_loss(row.expand(1, 2**11, 2**10, 2**10 + 1))
    torch.testing.assert_close(loss.double(), row.double().diff().square().sum() * 2**21, rtol=1e-6, atol=0)


def test_third_derivative(device: torch.device) -> None:
    images = data.feature_map(1, 1, 3, 4).to(device, torch.float64).requires_grad_()
    loss = ops.total_variation_loss(images) ** 2
    (first,) = torch.autograd.grad(loss, images, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), images, create_graph=True)
    plain = ops.total_variation_loss.reference(images) ** 2
    (first,) = torch.autograd.grad(plain, images, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), images, create_graph=True)
    torch.testing.assert_close(second, expected)
    third, wanted = (torch.autograd.grad(t.square().sum(), images)[0] for t in (second, expected))
    torch.testing.assert_close(third, wanted)


def test_compiled_gradient(device: torch.device) -> None:
    images = data.feature_map(2, 3, 8, 9).to(device)
    compiled = torch.compile(ops.total_variation_loss, fullgraph=True, backend="aot_eager")
    ours, plain = (loss_and_gradient(op, images) for op in (compiled, ops.total_variation_loss))
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("images", "kwargs", "message"),
    [
        (torch.zeros(3, 8, 9), {}, r"expected images of shape \[N, C, H, W\], got \[3, 8, 9\]"),
        (torch.zeros(1, 3, 8, 9).byte(), {}, "expected images of dtype float32"),
        (torch.zeros(1, 3, 8, 9), {"norm": "l3"}, 'expected norm "l1" or "l2", got "l3"'),
        (torch.zeros(1, 3, 8, 9), {"reduction": "max"}, 'expected reduction "mean", "sum" or "none", got \'max\''),
    ],
)
def test_bad_arguments(images: Tensor, kwargs: Any, message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match="total_variation_loss: " + message):
        ops.total_variation_loss(images.to(device), **kwargs)


class TestContentLoss:
    def test_is_torchs(self, device: torch.device) -> None:
        a, b = (data.feature_map(2, 5, 6, 7, seed=s).to(device) for s in (0, 1))
        torch.testing.assert_close(ops.content_loss(a, b), F.mse_loss(a, b))
        torch.testing.assert_close(
            ops.content_loss([a, a[:, :2]], [b, b[:, :2]], [0.5, 3.0]),
            0.5 * F.mse_loss(a, b) + 3 * F.mse_loss(a[:, :2], b[:, :2]),
        )

    def test_half_types_do_not_overflow(self, device: torch.device) -> None:
        a = torch.full((1, 2, 3, 4), 1e4, dtype=torch.float16, device=device)
        loss = ops.content_loss(a, -a)
        assert loss.dtype == torch.float32 and loss == 4e8

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (([], []), "expected at least one layer of features, got none"),
            (([torch.zeros(2)], []), "expected 1 targets, one for each layer, got 0"),
            ((torch.zeros(2), torch.zeros(2), [1.0, 2.0]), "expected 1 weights, one for each layer, got 2"),
            ((torch.zeros(2, 3), torch.zeros(3)), r"expected targets\[0\] of the features' shape \[2, 3\], got \[3\]"),
        ],
    )
    def test_bad_arguments(self, args: Any, message: str) -> None:
        with pytest.raises(ValueError, match="content_loss: " + message):
            ops.content_loss(*args)
