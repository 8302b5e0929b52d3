"""Ops inside the transforms of torch.func, and with dual numbers."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from case_calls import differentiated
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from fastvision import _library, ops
from fastvision.ops.upsample.kernel_choice import plan
from fastvision.testing.case import OpCase
from fastvision.testing.cases import CASES

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing is registered")
differentiable = pytest.mark.parametrize("case", [c for c in CASES if c.differentiable], ids=lambda c: c.id)


def functions(case: OpCase, device: torch.device) -> Any:
    """Leaves and a function of them to a number, for each sample."""
    assert case.gradient_samples is not None
    for sample in case.gradient_samples(device):
        leaves, call_op = differentiated(case, sample)

        def total(*tensors: Tensor, call_op: Any = call_op) -> Tensor:
            out = call_op(case.op, *tensors)
            return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=device).reshape(out.shape)).sum()

        yield leaves, functools.partial(call_op, case.op), total


@differentiable
def test_grad(case: OpCase, device: torch.device) -> None:
    for leaves, _, total in functions(case, device):
        expected = torch.autograd.grad(total(*leaves), leaves)
        actual = grad(total, tuple(range(len(leaves))))(*[leaf.detach() for leaf in leaves])
        torch.testing.assert_close(actual, expected)


@differentiable
def test_vmap_of_grad(case: OpCase, device: torch.device) -> None:
    for leaves, _, total in functions(case, device):
        several = [torch.stack([leaf, leaf * 0.9, leaf * 1.1]).detach() for leaf in leaves]
        of_all = grad(total, tuple(range(len(leaves))))
        expected = [of_all(*[leaf[i] for leaf in several]) for i in range(3)]
        torch.testing.assert_close(vmap(of_all)(*several), tuple(map(torch.stack, zip(*expected, strict=True))))
        rest = [leaf[0] for leaf in several[1:]]  # the same for all
        expected = [of_all(leaf, *rest) for leaf in several[0]]
        actual = vmap(of_all, (0, *[None] * len(rest)))(several[0], *rest)
        torch.testing.assert_close(actual, tuple(map(torch.stack, zip(*expected, strict=True))))


@differentiable
def test_jvp(case: OpCase, device: torch.device) -> None:
    """<w, J t> is <J^T w, t>; forward mode takes what a second derivative does."""
    for leaves, _, total in functions(case, device):
        primals = tuple(leaf.detach() for leaf in leaves)
        tangents = tuple(torch.randn_like(leaf) for leaf in primals)
        if not case.linear:
            with pytest.raises(RuntimeError, match="no second derivative"):
                jvp(total, primals, tangents)
            continue
        gradients = grad(total, tuple(range(len(leaves))))(*primals)
        expected = sum((gradient * tangent).sum() for gradient, tangent in zip(gradients, tangents, strict=True))
        torch.testing.assert_close(jvp(total, primals, tangents)[1], expected)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_hessian(activation: Any) -> None:
    x, weight = torch.randn(1, 2, 3, 3, dtype=torch.float64), torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def total(op: Any, weight: Tensor) -> Tensor:
        out: Tensor = op(x, weight, None, 2, activation=activation)
        return out.pow(3).sum()

    ours, plain = (functools.partial(total, op) for op in (ops.conv_transpose2d, ops.conv_transpose2d.reference))
    expected = hessian(plain)(weight)
    torch.testing.assert_close(hessian(ours)(weight), expected)
    for outer in (jacfwd, jacrev):
        torch.testing.assert_close(outer(jacfwd(ours))(weight), expected)


@pytest.mark.parametrize(
    "sizes", [(6, 4, 2, 2, 5, 1), (8, 8, 4, 2, 9, 8), (3, 21, 3, 1, 12, 1), (21, 21, 16, 8, 20, 21)]
)
def test_gradients_of_each_sample(sizes: tuple[int, ...], device: torch.device) -> None:
    """As an nn.ConvTranspose2d has them."""
    channels, outputs, taps, stride, side, groups = sizes
    ours = ops.ConvTranspose2d(channels, outputs, taps, stride, groups=groups, device=device)
    theirs = nn.ConvTranspose2d(channels, outputs, taps, stride, groups=groups, device=device)
    theirs.load_state_dict(ours.state_dict())
    samples = torch.randn(3, channels, side, side, device=device)
    parameters = {name: parameter.detach() for name, parameter in ours.named_parameters()}

    def loss(model: nn.Module, parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        out: Tensor = functional_call(model, parameters, (sample[None],))
        return out.square().mean()

    actual, expected = (
        vmap(grad(functools.partial(loss, model)), (None, 0))(parameters, samples) for model in (ours, theirs)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_small_layers_are_torchs_inside(device: torch.device) -> None:
    """Whose transforms see into its own ops without a Function in Python."""
    if device.type != "cpu":
        pytest.skip("on CUDA the tests ask for our kernel whatever the size")
    small, large = torch.randn(8, 8, 2, 2), torch.randn(21, 1, 64, 64)
    images = {8: torch.randn(1, 8, 8, 8), 21: torch.randn(1, 21, 34, 34)}
    kernels = []

    def total(weight: Tensor) -> Tensor:
        image, stride = images[len(weight)], weight.shape[2] // 2
        groups = len(weight) // weight.shape[1]
        kernels.append(plan(image, weight, stride, 0, 0, groups, 1).kernel)
        return ops.conv_transpose2d(image, weight, None, stride, groups=groups).sum()

    for weight in (small, large):
        grad(total)(weight)
        total(weight)
    assert kernels == ["torch", "fastvision", "fastvision", "fastvision"]


@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp"])
def test_compiled(transform: str) -> None:
    """Outside of the graph."""
    torch._dynamo.reset()
    x, tangent = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(2, 3, 6, 7, dtype=torch.float64)

    def total(x: Tensor) -> Tensor:
        return ops.gram_matrix(x).square().sum() + ops.instance_norm(x).pow(3).sum()

    def transformed(x: Tensor) -> Tensor:
        if transform == "grad":
            return grad(total)(x)
        if transform == "vmap":
            return vmap(grad(lambda image: total(image[None])))(x)
        along: Tensor = jvp(total, (x,), (tangent,))[1]
        return along

    torch.testing.assert_close(torch.compile(transformed, backend="aot_eager")(x), transformed(x))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("op", [ops.gram_matrix, ops.instance_norm, ops.total_variation_loss])
def test_tangents_of_compiled_code(op: Any, backend: str) -> None:
    x, tangent = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(2, 3, 6, 7, dtype=torch.float64)
    expected = jvp(op, (x,), (tangent,))[1]

    def inside(x: Tensor, tangent: Tensor) -> Tensor:
        with forward_ad.dual_level():
            found: Tensor = forward_ad.unpack_dual(op(forward_ad.make_dual(x, tangent))).tangent
            return found

    def compiled(function: Any) -> Any:
        torch._dynamo.reset()
        return torch.compile(function, backend=backend)

    torch.testing.assert_close(compiled(inside)(x, tangent), expected)
    torch.testing.assert_close(inside(x, tangent), expected)
    torch.testing.assert_close(jvp(compiled(op), (x,), (tangent,))[1], expected)
    outside = compiled(op)
    with forward_ad.dual_level():
        dual = outside(forward_ad.make_dual(x, tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_functionalize(device: torch.device) -> None:
    x = torch.randn(1, 3, 4, 5, device=device)
    for op in (ops.gram_matrix, ops.instance_norm, ops.total_variation_loss):
        torch.testing.assert_close(torch.func.functionalize(op)(x), op(x))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_second_tangents_of_a_bias(activation: Any) -> None:
    x, weight, bias = torch.randn(1, 8, 4, 4), torch.randn(8, 4, 2, 2), torch.randn(4)

    def total(op: Any, scale: Tensor) -> Tensor:
        out: Tensor = op(x, weight, bias * scale, 2, activation=activation)
        return out.square().sum()

    ours, plain = (jacfwd(jacfwd(functools.partial(total, op))) for op in (ops.conv_transpose2d, _plain_layer))
    torch.testing.assert_close(ours(torch.tensor(1.0)), plain(torch.tensor(1.0)))


def _plain_layer(x: Tensor, weight: Tensor, bias: Tensor, stride: int, activation: str) -> Tensor:
    out: Tensor = getattr(nn.functional, activation)(nn.functional.conv_transpose2d(x, weight, bias, stride))
    return out


def test_dual_numbers() -> None:
    """Of two inputs one may have no tangent, and what has none in sight is computed as ever."""
    x, weight = torch.randn(1, 3, 5, 5, dtype=torch.float64), torch.rand(3, dtype=torch.float64, requires_grad=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        out = forward_ad.unpack_dual(ops.instance_norm(dual, weight))
        assert out.tangent.abs().max() < 1e-8  # it does not see what is added to all pixels
        assert forward_ad.unpack_dual(ops.gram_matrix(x)).tangent is None
        ops.instance_norm(x, weight).sum().backward()
        scaled = forward_ad.unpack_dual(ops.total_variation_loss(forward_ad.make_dual(x, x)))
        torch.testing.assert_close(scaled.tangent, 2 * scaled.primal)  # a sum of squares
    assert weight.grad is not None
