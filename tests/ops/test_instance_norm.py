"""instance_norm against torch's own, at the edges, and bitwise repeatable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from roi_checks import bitwise_repeatable
from style_checks import affine, value_and_gradients
from torch import Tensor

from fastvision import ops
from fastvision.testing import data

NAN, INF = float("nan"), float("inf")
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
ACTIVATIONS = pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])


def torchs(x: Tensor, weight: Tensor | None, bias: Tensor | None, activation: str | None) -> Tensor:
    out = F.instance_norm(x, weight=weight, bias=bias)
    return F.relu(out) if activation == "relu" else F.leaky_relu(out) if activation else out


@LAYOUTS
@ACTIVATIONS
@pytest.mark.parametrize(
    "shape", [(2, 7, 12, 9), (1, 1, 70, 90), (3, 16, 5, 5), (1, 130, 6, 7), (2, 64, 33, 20)], ids=str
)
def test_equals_torchs_in_float64(shape: Any, activation: str | None, layout: Any, device: torch.device) -> None:
    x = data.feature_map(*shape).to(device, torch.float64).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(shape[1], dtype=torch.float64))
    ours = value_and_gradients(lambda *t: ops.instance_norm(*t, activation=activation), x, weight, bias)
    theirs = value_and_gradients(lambda *t: torchs(*t, activation), x, weight, bias)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 17, 127, 128, 129, 200, 400])
@pytest.mark.parametrize("size", [(1, 3), (5, 7), (9, 43)], ids=str)
def test_any_number_of_channels(
    layout: Any, dtype: torch.dtype, channels: int, size: Any, device: torch.device
) -> None:
    """Rows of values are whole vectors, or not, and last rows are shorter."""
    x = data.feature_map(2, channels, *size).to(device, dtype).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(channels, dtype=dtype))
    ours = value_and_gradients(lambda *t: ops.instance_norm(*t, activation="leaky_relu"), x, weight, bias)
    exact = value_and_gradients(lambda *t: torchs(*t, "leaky_relu"), *(t.double() for t in (x, weight, bias)))
    tolerance = 1e-10 if dtype == torch.float64 else 2e-3
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


@LAYOUTS
def test_the_smallest_and_largest_half_numbers(layout: Any, device: torch.device) -> None:
    """Read as what they are: subnormals as multiples of 2^-24, infinity and NaN as such."""
    steps = torch.arange(-1200, 1200, device=device).view(1, 2, 30, 40)
    tiny = (steps * 2.0**-24).half().to(memory_format=layout)
    out = ops.instance_norm(tiny, None, None, 1e-30)
    assert torch.equal(out, ops.instance_norm(tiny.float(), None, None, 1e-30).half())
    assert abs(float(out.float().std(correction=0)) - 1) < 1e-3
    top = torch.full((1, 3, 8, 9), 65504.0, device=device)
    top[0, :, 0, 0], top[0, 1, 4, 4], top[0, 2, 7, 8] = -65504, INF, NAN
    out = ops.instance_norm(top.half().to(memory_format=layout), None, None)
    assert out[0, 0].isfinite().all() and out[0, 0, 0, 0] < -8 and out[0, 1:].isnan().all()


@LAYOUTS
@pytest.mark.parametrize("offset", [1e4, -3e5, 1e6])
def test_a_mean_far_from_zero(offset: float, layout: Any, device: torch.device) -> None:
    """Against float64 on the same numbers; a mean rounded to float32 is off by up to 3 % of a standard deviation."""
    x = (data.feature_map(2, 5, 120, 90) + offset).to(device).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(5))
    ours = value_and_gradients(ops.instance_norm, x, weight, bias)
    exact = value_and_gradients(lambda *t: torchs(*t, None), x.double(), weight.double(), bias.double())
    for a, b in zip(ours, exact, strict=True):
        scale = max(1.0, float(b.abs().max()))
        torch.testing.assert_close(a.double() / scale, b / scale, rtol=0, atol=5e-6)


def test_planes_of_unlike_parts(device: torch.device) -> None:
    """The first half at one height, the second at another, one outlier: no part stands for the whole."""
    x = data.feature_map(1, 2, 100, 64).to(device)
    x[:, :, 50:] += 1000
    x[:, 1, 0, 0] = 1e6
    out, expected = ops.instance_norm(x), F.instance_norm(x.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@LAYOUTS
def test_nan_and_infinity_stay_in_their_plane(layout: Any, device: torch.device) -> None:
    x = data.feature_map(2, 20, 30, 9).to(device)
    clean = ops.instance_norm(x, activation="relu")
    x[0, 3, 4, 5], x[1, 0, 0, 0], x[1, 19, 2, 2] = NAN, INF, -INF
    bad = torch.zeros(2, 20, dtype=torch.bool, device=device)
    bad[0, 3] = bad[1, 0] = bad[1, 19] = True
    leaf = x.to(memory_format=layout).requires_grad_()
    out = ops.instance_norm(leaf, activation="relu")
    (gradient,) = torch.autograd.grad(out[~bad].sum(), leaf)
    assert out[bad].isnan().all() and gradient[~bad].isfinite().all()
    torch.testing.assert_close(out[~bad], clean[~bad], rtol=1e-5, atol=1e-6)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_pixel_gives_the_bias(dtype: torch.dtype, layout: Any, device: torch.device) -> None:
    x = (data.feature_map(3, 20, 1, 1) * 100).to(device, dtype).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(20))
    out, to_x, to_weight, to_bias = value_and_gradients(ops.instance_norm, x, weight, bias)
    assert torch.equal(out, bias.to(dtype)[None, :, None, None].expand_as(out))
    assert not to_x.any() and not to_weight.any() and to_bias.all()


def test_nothing_to_normalise(device: torch.device) -> None:
    weight, bias = (t.to(device) for t in affine(4))
    for shape in ((0, 4, 5, 6), (2, 4, 0, 6), (2, 0, 5, 6)):
        w, b = weight[: shape[1]], bias[: shape[1]]
        out, *gradients = value_and_gradients(ops.instance_norm, torch.zeros(shape, device=device), w, b)
        assert out.shape == shape and gradients[0].shape == shape
        assert not gradients[1].any() and not gradients[2].any()
        _, to_x, to_weight = value_and_gradients(
            lambda x, w: ops.instance_norm(x, w), torch.zeros(shape, device=device), w
        )
        assert to_x.shape == shape and not to_weight.any()
    nobody = torch.zeros(0, dtype=torch.long, device=device)
    assert ops.instance_norm(torch.zeros(0, 4, 5, 6, device=device), weight[None], style=nobody).shape == (0, 4, 5, 6)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_do_not_overflow(dtype: torch.dtype, layout: Any, device: torch.device) -> None:
    """Squares of 1e4 and sums over a plane are far beyond float16."""
    x = (data.feature_map(2, 18, 70, 40) * 1e4).to(device, dtype).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(18))  # float32
    ours = value_and_gradients(ops.instance_norm, x, weight, bias)
    exact = value_and_gradients(lambda *t: torchs(*t, None), x.double(), weight.double(), bias.double())
    eps = torch.finfo(dtype).eps
    assert ours[0].dtype == dtype and ours[2].dtype == torch.float32
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=eps, atol=eps)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=2 * eps, atol=1e-4)
    for a, b in zip(ours[2:], exact[2:], strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2 * eps * float(b.abs().max()))


def test_mixed_dtypes(device: torch.device) -> None:
    x = data.feature_map(2, 6, 8, 9).to(device)
    weight, bias = (t.to(device) for t in affine(6, dtype=torch.float64))
    out, to_x, to_weight, to_bias = value_and_gradients(ops.instance_norm, x, weight, bias)
    assert [t.dtype for t in (out, to_x, to_weight, to_bias)] == [torch.float32] * 2 + [torch.float64] * 2
    torch.testing.assert_close(out, torchs(x, weight.float(), bias.float(), None))


@LAYOUTS
def test_weight_and_bias_alone(layout: Any, device: torch.device) -> None:
    x = data.feature_map(2, 6, 8, 9).to(device, torch.float64).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(6, dtype=torch.float64))
    for ours, theirs, values in (
        # torch's gradient on CUDA needs both
        (lambda x, w: ops.instance_norm(x, w), lambda x, w: torchs(x, w, torch.zeros_like(w), None), weight),
        (lambda x, b: ops.instance_norm(x, None, b), lambda x, b: torchs(x, torch.ones_like(b), b, None), bias),
    ):
        for a, b in zip(value_and_gradients(ours, x, values), value_and_gradients(theirs, x, values), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_layouts(device: torch.device) -> None:
    """channels_last in, channels_last out; every other layout gives contiguous maps; all give the same numbers."""
    x = data.feature_map(2, 20, 8, 9).to(device)
    plain = value_and_gradients(lambda t: ops.instance_norm(t, activation="relu"), x)
    wide = torch.zeros(2, 9, 8, 40, device=device)
    wide[..., ::2] = x.permute(0, 3, 2, 1)
    last = x.to(memory_format=torch.channels_last)
    for other in (last, wide[..., ::2].permute(0, 3, 2, 1), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(other, x) and not other.is_contiguous()
        ours = value_and_gradients(lambda t: ops.instance_norm(t, activation="relu"), other)
        for a, b in zip(ours, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        assert ours[0].is_contiguous(memory_format=torch.channels_last) == (other is last)
        assert ours[0].is_contiguous() == (other is not last)


def test_sequences_and_volumes(device: torch.device) -> None:
    """As torch has them, in place where channels come last."""
    x = data.feature_map(2, 20, 6, 7).to(device)
    volumes = x.unflatten(2, (3, 2)).contiguous(memory_format=torch.channels_last_3d)
    out = ops.instance_norm(volumes)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(out, F.instance_norm(volumes), rtol=1e-5, atol=1e-5)
    sequences = x[:, :, 0].transpose(1, 2).contiguous().transpose(1, 2)  # [N, C, L], channels last
    out = ops.instance_norm(sequences)
    assert out.stride() == sequences.stride()
    torch.testing.assert_close(out, F.instance_norm(sequences), rtol=1e-5, atol=1e-5)


@LAYOUTS
def test_a_gradient_in_another_layout(layout: Any, device: torch.device) -> None:
    x = data.feature_map(2, 20, 8, 9).to(device).to(memory_format=layout)
    results = []
    for grad in (data.feature_map(2, 20, 8, 9, seed=1), torch.ones(()).expand(2, 20, 8, 9)):
        for form in (torch.contiguous_format, torch.channels_last, None):
            leaf = x.detach().requires_grad_()
            flowing = grad.to(device) if form is None else grad.to(device).contiguous(memory_format=form)
            results.append(torch.autograd.grad(ops.instance_norm(leaf, activation="relu"), leaf, flowing)[0])
    for first in (0, 3):
        assert torch.equal(results[first], results[first + 1]) and torch.equal(results[first], results[first + 2])


@LAYOUTS
@pytest.mark.parametrize("shape", [(1, 40, 100, 67), (3, 3, 90, 70), (3, 130, 9, 11), (1, 1, 300, 301)], ids=str)
def test_bitwise_repeatable(shape: Any, layout: Any, device: torch.device) -> None:
    x = data.feature_map(*shape).to(device).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(2, shape[1]))
    style = torch.arange(shape[0], device=device) % 2
    bitwise_repeatable(
        lambda: value_and_gradients(lambda *t: ops.instance_norm(*t, activation="relu", style=style), x, weight, bias)
    )


BAD: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((torch.zeros(2, 3),), {}, r"expected input of shape \[N, C, \*spatial\], 3 to 5 dimensions, got \[2, 3\]"),
    ((torch.zeros(2, 3, 4, 5).long(),), {}, "expected input of dtype float32"),
    ((torch.zeros(2, 3, 4, 5), torch.zeros(4)), {}, r"expected weight of shape \[3\], got \[4\]"),
    ((torch.zeros(2, 3, 4, 5), None, torch.zeros(1, 3)), {}, r"expected bias of shape \[3\], got \[1, 3\]"),
    ((torch.zeros(2, 3, 4, 5), torch.zeros(3).int()), {}, "expected weight of dtype float32"),
    (
        (torch.zeros(2, 3, 4, 5),),
        {"activation": "gelu"},
        'expected activation None, "relu" or "leaky_relu", got \'gelu\'',
    ),
    ((torch.zeros(2, 3, 4, 5),), {"style": torch.zeros(2).long()}, "expected weight or bias with style, got neither"),
    (
        (torch.zeros(2, 3, 4, 5), torch.zeros(3)),
        {"style": torch.zeros(2).long()},
        r"expected weight of shape \[S, 3\], got \[3\]",
    ),
    (
        (torch.zeros(2, 3, 4, 5), torch.zeros(4, 3), torch.zeros(5, 3)),
        {"style": torch.zeros(2).long()},
        r"expected weight and bias of as many styles, got \[4, 3\] and \[5, 3\]",
    ),
    (
        (torch.zeros(2, 3, 4, 5), torch.zeros(4, 3)),
        {"style": torch.zeros(3).long()},
        r"expected style of shape \[2\] and dtype int64, got \[3\]",
    ),
]


@pytest.mark.parametrize(("args", "kwargs", "message"), BAD)
def test_bad_arguments(args: Any, kwargs: Any, message: str, device: torch.device) -> None:
    def place(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    with pytest.raises(ValueError, match="instance_norm: " + message):
        ops.instance_norm(*map(place, args), **{name: place(value) for name, value in kwargs.items()})


def test_backward_checks_its_arguments(device: torch.device) -> None:
    backward = torch.ops.fastvision.instance_norm_backward
    x, moments = torch.zeros(2, 3, 4, 5, device=device), torch.zeros(2, 3, dtype=torch.float64, device=device)
    with pytest.raises(ValueError, match=r"expected grad of the shape and dtype of input, .* got \[2, 3\]"):
        backward(x[:, :, 0, 0], x, None, None, None, moments, moments, 1e-5, 1.0)
    with pytest.raises(ValueError, match=r"expected mean and rstd of shape \[2, 3\] and dtype float64, got \[2, 2\]"):
        backward(x, x, None, None, None, moments[:, :2], moments, 1e-5, 1.0)


def test_third_derivative(device: torch.device) -> None:
    """The second derivative is made of torch's own ops, moments included, so it can be differentiated further."""
    x = data.feature_map(1, 2, 2, 3).to(device, torch.float64).requires_grad_()
    weight, bias = (t.to(device).requires_grad_() for t in affine(2, dtype=torch.float64))

    def gradient(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        out = ops.instance_norm(x, weight, bias, activation="leaky_relu")
        return torch.autograd.grad(out.square().sum(), (x, weight), create_graph=True)

    assert torch.autograd.gradgradcheck(gradient, (x, weight))


@pytest.mark.parametrize("conditional", [False, True])
def test_compiled_gradients(conditional: bool, device: torch.device) -> None:
    x = data.feature_map(2, 3, 8, 9).to(device)
    weight, bias = (t.to(device) for t in affine(*([4, 3] if conditional else [3])))
    style = torch.tensor([3, 1], device=device) if conditional else None

    def function(*tensors: Tensor) -> Tensor:
        return ops.instance_norm(*tensors, activation="relu", style=style).exp()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        value_and_gradients(compiled, x, weight, bias), value_and_gradients(function, x, weight, bias), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()


def test_second_derivative_far_from_zero(device: torch.device) -> None:
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device) + 1e4
    flowing, found = torch.linspace(-1, 1, x.numel(), device=device).view(x.shape), []
    for dtype in (torch.float32, torch.float64):
        leaf = x.float().to(dtype).requires_grad_()
        (first,) = torch.autograd.grad(ops.instance_norm(leaf), leaf, flowing.to(dtype), create_graph=True)
        found.append(torch.autograd.grad((first * flowing.to(dtype)).sum(), leaf)[0].double())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5 * float(found[1].abs().max()))
