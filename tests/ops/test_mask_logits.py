"""mask_logits against torch's three layers, both formats, every gradient, and bitwise repeatable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roi_checks import bitwise_repeatable
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing.cases.masks import mask_head

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


def three_layers(
    features: Tensor, weight: Tensor, bias: Tensor, class_weight: Tensor, class_bias: Tensor, labels: Tensor
) -> Tensor:
    hidden = F.conv_transpose2d(features, weight, bias, stride=2).relu()
    maps = F.conv2d(hidden, class_weight[:, :, None, None], class_bias)
    return maps[torch.arange(len(labels), device=labels.device), labels]


def head_of(device: torch.device, *sizes: Any, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in mask_head(*sizes)]


def value_and_gradients(op: Any, head: list[Tensor]) -> tuple[Tensor, ...]:
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in head[:5]]
    out = op(*leaves, head[5])
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    return out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)


@LAYOUTS
@pytest.mark.parametrize(
    "sizes",
    [(5, 16, 16, 3, (4, 4)), (9, 13, 21, 9, (7, 5)), (1, 3, 40, 1, (14, 14)), (2, 5, 1, 2, (17, 31))],
    ids=str,
)
def test_equals_three_layers(layout: Any, sizes: Any, device: torch.device) -> None:
    """Values and all gradients, of labels of every class."""
    head = head_of(device, *sizes)
    head[0] = head[0].to(memory_format=layout)
    assert len(head[5].unique()) == min(sizes[3], sizes[0])
    for ours, theirs in zip(
        value_and_gradients(ops.mask_logits, head), value_and_gradients(three_layers, head), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_half_features_and_single_layers(layout: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Layers need not be stored as the features are; sums are float32."""
    head = head_of(device, 4, 24, 33, 4, (5, 5), dtype=torch.float32)
    head[0] = head[0].to(dtype).to(memory_format=layout)
    out = ops.mask_logits(*head)
    assert out.dtype == dtype
    exact = three_layers(*(t.double() if t.is_floating_point() else t for t in head))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=eps, atol=max(eps / 8, 1e-5))


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_layers(layout: Any, dtype: torch.dtype, device: torch.device) -> None:
    """No worse than the three layers, which round what lies between them."""
    head = head_of(device, 4, 24, 33, 4, (5, 5), dtype=torch.float32)
    head = [t.to(dtype) if t.is_floating_point() else t for t in head]
    head[0] = head[0].to(memory_format=layout)
    exact = three_layers(*(t.double() if t.is_floating_point() else t for t in head))
    error, theirs = ((out.double() - exact).abs().max() for out in (ops.mask_logits(*head), three_layers(*head)))
    assert error <= 1.5 * theirs


def test_inside_autocast(device: torch.device) -> None:
    head = head_of(device, 4, 24, 33, 4, (5, 5), dtype=torch.float32)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = ops.mask_logits(*head)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, ops.mask_logits(*head), rtol=3e-2, atol=3e-2)


def test_a_weight_that_others_use_inside_autocast(device: torch.device) -> None:
    """autocast keeps the copies of parameters it makes, and hands them to whoever comes next."""
    features, weight, *rest = head_of(device, 2, 3, 5, 2, (4, 4), dtype=torch.float32)
    weight.requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        ops.mask_logits(features, weight, *rest)
        (grad,) = torch.autograd.grad(F.conv_transpose2d(features, weight, stride=2).sum(), weight)
    assert grad.abs().sum() > 0


def test_sigmoid(device: torch.device) -> None:
    head = head_of(device, 3, 4, 5, 2, (3, 3))
    assert torch.equal(ops.mask_logits(*head, sigmoid=True), ops.mask_logits(*head).sigmoid())


def test_nan_and_infinity_stay_with_their_pixels(device: torch.device) -> None:
    """As in the three layers, hidden units of a partly filled vector among them."""
    head = head_of(device, 2, 4, 5, 2, (3, 4))
    head[0][0, 1, 1, 2], head[0][1, 2, 0, 0] = float("nan"), float("inf")
    out, expected = ops.mask_logits(*head), three_layers(*head)
    torch.testing.assert_close(out, expected, equal_nan=True)
    assert out[0].isnan().sum() == 4


def test_nothing_to_do(device: torch.device) -> None:
    for sizes in ((0, 3, 4, 2, (5, 5)), (2, 3, 4, 2, (0, 5))):
        out, *grads = value_and_gradients(ops.mask_logits, head_of(device, *sizes))
        assert out.shape == (sizes[0], 2 * sizes[4][0], 10) and not any(g.any() for g in grads)
    head = head_of(device, 2, 0, 4, 2, (2, 2))
    out, *grads = value_and_gradients(ops.mask_logits, head)
    expected = (head[3][head[5]] @ head[2].relu() + head[4][head[5]])[:, None, None].expand(2, 4, 4)
    torch.testing.assert_close(out, expected)
    assert grads[0].shape == (2, 0, 2, 2) and grads[2].any()
    head = head_of(device, 2, 3, 4, 2, (2, 2))
    head[1:4] = head[1][:, :0], head[2][:0], head[3][:, :0]
    assert torch.equal(ops.mask_logits(*head), head[4][head[5]][:, None, None].expand(2, 4, 4))


@pytest.mark.parametrize("label", [-1, 3, 2**40])
def test_a_class_that_does_not_exist(label: int, device: torch.device) -> None:
    head = head_of(device, 4, 3, 4, 3, (2, 2))
    good = head[5].clone()
    head[5][2] = label
    if device.type == "cpu" and fastvision.BACKEND == "native":
        with pytest.raises(IndexError, match=rf"mask_logits: expected labels\[2\] in \[0, 3\), got {label}"):
            ops.mask_logits(*head)
        return
    out, *grads = value_and_gradients(ops.mask_logits, head)
    expected = ops.mask_logits(*head[:5], good)
    expected[2] = 0
    assert torch.equal(out, expected) and not grads[0][2].any() and grads[0][1].any()


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(2, 3, 4), r"expected features of shape \[R, C, H, W\], got \[2, 3, 4\]"),
        (0, torch.zeros(2, 3, 2, 2).long(), "expected features of dtype float32"),
        (1, torch.zeros(3, 4, 3, 3), r"expected a weight of shape \[3, O, 2, 2\], got \[3, 4, 3, 3\]"),
        (2, torch.zeros(5), r"expected a bias of shape \[4\], got \[5\]"),
        (3, torch.zeros(2, 5), r"expected a class_weight of shape \[K, 4\], got \[2, 5\]"),
        (3, torch.zeros(2, 4, 3, 3), r"expected a class_weight of shape \[K, 4\], got \[2, 4, 3, 3\]"),
        (4, torch.zeros(3), r"expected a class_bias of shape \[2\], got \[3\]"),
        (5, torch.zeros(3).long(), r"expected labels of shape \[2\], got \[3\]"),
        (5, torch.zeros(2).int(), "expected labels of dtype int64"),
    ],
)
def test_bad_arguments(position: int, value: Tensor, message: str, device: torch.device) -> None:
    head = head_of(device, 2, 3, 4, 2, (2, 2), dtype=torch.float32)
    head[position] = value.to(device)
    with pytest.raises(ValueError, match="mask_logits: " + message):
        ops.mask_logits(*head)


@LAYOUTS
@pytest.mark.parametrize("rois", [1, 7])
def test_bitwise_repeatable(layout: Any, rois: int, device: torch.device) -> None:
    """One roi is cut for more threads, without a change to any pixel."""
    head = head_of(device, rois, 30, 40, 3, (14, 14), dtype=torch.float32)
    head[0] = head[0].to(memory_format=layout)
    bitwise_repeatable(lambda: (ops.mask_logits(*head),))
