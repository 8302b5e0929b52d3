"""First and second derivatives of our transposed convolution, whoever is chosen to compute them."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastvision import _library, ops
from fastvision.ops.upsample.kernel_choice import GradientPlan, Plan
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to differentiate")
LAYERS = pytest.mark.parametrize(
    ("taps", "rest"),
    [((2, 2), ((2, 2), (0, 0), (0, 0))), ((3, 3), ((2, 2), (1, 1), (1, 1)))],
    ids=["2x2, stride 2", "3x3, stride 2"],
)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
ACTIVATIONS = pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])


def tensors(device: torch.device, layout: Any, channels: int, outputs: int, taps: tuple[int, int]) -> list[Tensor]:
    g = data.generator(3)
    x = torch.randn(2, channels, 3, 2, generator=g, dtype=torch.float64)
    x = x.to(memory_format=layout or torch.contiguous_format)
    weight = torch.randn(channels, outputs, *taps, generator=g, dtype=torch.float64)
    bias = torch.randn(outputs, generator=g, dtype=torch.float64)
    return [t.to(device).requires_grad_() for t in (x, weight, bias)]


@LAYERS
@LAYOUTS
@ACTIVATIONS
@pytest.mark.parametrize(("channels", "outputs"), [(2, 3), (16, 18)], ids=["2 to 3", "16 to 18"])
def test_derivatives_of_dense_layers(
    taps: Any, rest: Any, layout: Any, activation: str, channels: int, outputs: int, device: torch.device
) -> None:
    geometry = (*(number for pair in rest for number in pair), 1, 1, 1)
    slope = {"none": 1.0, "relu": 0.0, "leaky_relu": 0.2}[activation]

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.ops.fastvision.conv_transpose2d(x, weight, bias, geometry, slope)

    args = tensors(device, layout, channels, outputs, taps)
    assert layer(*args).is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(layer, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, args, fast_mode=True)


_PLANS = [(True, True), (True, False), (False, True), (False, False)]  # and turned
_PLANS += [(True, False, True), (False, True, True), (False, False, True)]
CHOICES = pytest.mark.parametrize("ours", _PLANS)


@CHOICES
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
def test_gradients_do_not_depend_on_who_computes_them(
    ours: Any, activation: Any, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    module = sys.modules["fastvision.ops.upsample.conv_transpose2d_gradients"]
    monkeypatch.setattr(module, "remembered_gradient_plan", lambda *_: GradientPlan(*ours))
    x, weight, bias = tensors(device, torch.contiguous_format, 16, 18, (4, 4))
    for needed in ([x], [weight], [bias], [x, bias], [weight, bias], [x, weight, bias]):
        output = ops.conv_transpose2d(x, weight, bias, 2, 1, activation=activation, negative_slope=0.2)
        plain = torch.conv_transpose2d(x, weight, bias, 2, 1)
        expected = ops.conv_transpose2d.reference(  # type: ignore[attr-defined]
            x, weight, bias, 2, 1, activation=activation, negative_slope=0.2
        )
        assert output.shape == plain.shape
        for a, e in zip(
            torch.autograd.grad(output.square().sum(), needed),
            torch.autograd.grad(expected.square().sum(), needed),
            strict=True,
        ):
            torch.testing.assert_close(a, e)


@pytest.mark.parametrize(
    "needed", [(True, True, True), (True, False, False), (False, True, False), (False, True, True)]
)
def test_gradients_of_planes_are_planes(needed: Any, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Also those that torch computes in channels_last."""
    module = sys.modules["fastvision.ops.upsample.conv_transpose2d_gradients"]
    monkeypatch.setattr(module, "remembered_gradient_plan", lambda *_: GradientPlan(False, False, turned=True))
    args = [t.detach().requires_grad_(n) for t, n in zip(tensors(device, None, 7, 9, (3, 3)), needed, strict=True)]
    for grad in (
        torch.randn(2, 9, 7, 5, device=device).double(),
        torch.ones(1, device=device).double().expand(2, 9, 7, 5),
    ):
        ours = torch.autograd.grad(ops.conv_transpose2d(*args, 2), [a for a in args if a.requires_grad], grad)
        theirs = torch.autograd.grad(torch.conv_transpose2d(*args, 2), [a for a in args if a.requires_grad], grad)
        assert len(ours) == len(theirs)
        for o, t in zip(ours, theirs, strict=True):
            torch.testing.assert_close(o, t)
            assert o.is_contiguous()


@CHOICES
def test_batches_of_gradients(ours: Any, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    module = sys.modules["fastvision.ops.upsample.conv_transpose2d_gradients"]
    monkeypatch.setattr(module, "remembered_gradient_plan", lambda *_: GradientPlan(*ours))
    args = tensors(device, None, 7, 9, (3, 3))
    grads = torch.randn(3, 2, 9, 7, 5, dtype=torch.float64, device=device)
    found = [
        torch.autograd.grad(layer(*args, 2), args, grads, is_grads_batched=True)
        for layer in (ops.conv_transpose2d, torch.conv_transpose2d)
    ]
    torch.testing.assert_close(*found)


def test_second_derivatives_of_planes_in_channels_last(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    module = sys.modules["fastvision.ops.upsample.conv_transpose2d_gradients"]
    monkeypatch.setattr(module, "remembered_gradient_plan", lambda *_: GradientPlan(False, False, turned=True))
    args = tensors(device, None, 3, 2, (3, 3))
    assert torch.autograd.gradcheck(lambda *args: ops.conv_transpose2d(*args, 2), args, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *args: ops.conv_transpose2d(*args, 2), args, fast_mode=True)


@CHOICES
@LAYOUTS
@pytest.mark.parametrize("outputs", [1, 5])
def test_the_input_decides_how_its_gradient_is_laid_out(
    ours: Any, layout: Any, outputs: int, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Whatever lays out the output's gradient: of one channel it is dense both ways, of a sum not at all."""
    module = sys.modules["fastvision.ops.upsample.conv_transpose2d_gradients"]
    monkeypatch.setattr(module, "remembered_gradient_plan", lambda *_: GradientPlan(*ours))
    x, weight, bias = tensors(device, layout, 7, outputs, (3, 3))
    output, expected = (layer(x, weight, bias, 2) for layer in (ops.conv_transpose2d, torch.conv_transpose2d))
    grads = [
        torch.full_like(output, 2, memory_format=other) for other in (torch.contiguous_format, torch.channels_last)
    ]
    for grad in (*grads, torch.ones_like(output[:, :, :1, :1]).expand_as(output)):
        (to_input,) = torch.autograd.grad(output, x, grad, retain_graph=True)
        torch.testing.assert_close(to_input, torch.autograd.grad(expected, x, grad, retain_graph=True)[0])
        assert to_input.is_contiguous(memory_format=layout)


@ACTIVATIONS
@pytest.mark.parametrize("biased", [True, False])
def test_derivatives_of_layers_that_torch_computes(
    activation: str, biased: bool, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Forward by torch, gradients by kernels of ours."""
    module = sys.modules["fastvision.ops.upsample.conv_transpose2d"]
    monkeypatch.setattr(
        module, "remembered_plan", lambda *_: Plan("torch", (2, 2, 1, 1, 0, 0, 1, 1, 1), False, own_gradients=True)
    )
    gradients = sys.modules["fastvision.ops.upsample.conv_transpose2d_gradients"]
    monkeypatch.setattr(gradients, "remembered_gradient_plan", lambda *_: GradientPlan(True, True))
    x, weight, bias = tensors(device, torch.contiguous_format, 3, 2, (4, 4))
    chosen: Any = None if activation == "none" else activation

    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return ops.conv_transpose2d(x, weight, bias if biased else None, 2, 1, activation=chosen)

    output = layer(x, weight, bias)
    name = type(output.grad_fn if activation == "none" else output.grad_fn.next_functions[0][0]).__name__
    assert name == "Eager_conv_transpose2dBackward"
    args = (x, weight, bias)
    assert torch.autograd.gradcheck(layer, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, args, fast_mode=True)
    with torch.no_grad():
        assert torch.equal(layer(x, weight, bias), output)
    with forward_ad.dual_level():
        dual = layer(forward_ad.make_dual(x, torch.ones_like(x)), weight, bias)
        assert forward_ad.unpack_dual(dual).tangent is not None


def test_a_layer_that_torch_trains(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """Forward by a kernel of ours where no gradient is wanted, or an activation is fused with it."""
    module = sys.modules["fastvision.ops.upsample.conv_transpose2d"]
    planned = Plan("fastvision", (2, 2, 1, 1, 0, 0, 1, 1, 1), False, False, torch_trains=True)
    monkeypatch.setattr(module, "remembered_plan", lambda *_: planned)
    x, weight, bias = tensors(device, torch.contiguous_format, 3, 2, (4, 4))
    output, first = ops.conv_transpose2d(x, weight, bias, 2, 1), ops.conv_transpose2d(x[0], weight, bias, 2, 1)
    assert type(output.grad_fn).__name__ == "ConvolutionBackward0"
    assert type(first.grad_fn.next_functions[0][0]).__name__ == "ConvolutionBackward0"
    torch.testing.assert_close(first, output[0])
    with pytest.raises(ValueError, match="bias"):
        ops.conv_transpose2d(x, weight, bias[:1], 2, 1)

    def torchs(*_: Any) -> Tensor:
        raise AssertionError("torch's convolution was called")

    monkeypatch.setattr(torch, "conv_transpose2d", torchs)
    rectified = ops.conv_transpose2d(x, weight, bias, 2, 1, activation="relu")
    assert type(rectified.grad_fn).__name__ == "Eager_conv_transpose2dBackward"
    torch.testing.assert_close(rectified, output.relu())
    with torch.no_grad():
        torch.testing.assert_close(ops.conv_transpose2d(x, weight, bias, 2, 1), output)
