"""The style loss: against Gram matrices by torch.bmm, at the edges, and what the papers say of it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from style_checks import divisor, product
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastvision import _library, ops
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")
_module = sys.modules["fastvision.ops.style.style_loss"]
NORMALIZE = pytest.mark.parametrize("normalize", ["chw", "hw", "none"])


@pytest.fixture(params=["ahead", "after"], autouse=True)
def both_ways_to_gradients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are computed with the loss on a GPU, after it elsewhere, and both work on both."""
    monkeypatch.setattr(_module, "_ahead_pays", alike if request.param == "ahead" else lambda *_: False)


def alike(features: list[Tensor], targets: list[Tensor]) -> bool:
    one_dtype = {f.dtype for f in features} in ({torch.float32}, {torch.float64})
    return one_dtype and not any(t.requires_grad for t in targets)


def layers(device: torch.device, *channels: int, batch: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    """Features of some layers, and the Gram matrices of others, of one image where the layer is even."""
    features = [data.feature_map(batch, c, 5 + c % 3, 7, seed=c).to(device, dtype) for c in channels]
    targets = [product(f.flip(-3))[0 if i % 2 == 0 else slice(None)] for i, f in enumerate(features)]
    return features, [(t / f[0].numel()).to(dtype) for f, t in zip(features, targets, strict=True)]


def test_gradients_of_what_asks_for_them(device: torch.device) -> None:
    features, targets = layers(device, 5, 6, 7)
    everything = [t.requires_grad_() for t in (*features, *targets)]
    expected = torch.autograd.grad(ops.style_loss(features, targets), everything)
    for wanted in ([0], [1, 5], [4], [2, 3]):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(everything)]
        found = torch.autograd.grad(ops.style_loss(leaves[:3], leaves[3:]), [leaves[i] for i in wanted])
        assert all(torch.equal(f, expected[i]) for i, f in zip(wanted, found, strict=True))


@NORMALIZE
@pytest.mark.parametrize("batched", [False, True])
def test_the_loss_is_the_batch_mean_of_squares(normalize: Any, batched: bool, device: torch.device) -> None:
    features = data.feature_map(3, 10, 6, 5).to(device)
    target = product(data.feature_map(3, 10, 6, 5, seed=1).to(device)) / divisor(features, normalize)
    target = target if batched else target[0]
    squares = (product(features) / divisor(features, normalize) - target).square().sum((1, 2))
    loss = ops.style_loss([features], [target], [3.0], normalize=normalize)
    torch.testing.assert_close(loss.double(), 3 * squares.mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("channels", [(6, 11), (70, 3, 64), tuple(range(1, 21))], ids=len)
def test_the_loss_is_the_sum_over_layers(channels: tuple[int, ...], device: torch.device) -> None:
    features, targets = layers(device, *channels)
    features[0] = features[0].to(memory_format=torch.channels_last)
    weights = [0.5 + i for i in range(len(channels))]
    leaves = [t.requires_grad_() for t in (*features, *targets)]
    loss = ops.style_loss(features, targets, weights)
    singles = [ops.style_loss([f], [t], [w]) for f, t, w in zip(features, targets, weights, strict=True)]
    torch.testing.assert_close(loss, torch.stack(singles).sum(), rtol=1e-5, atol=0)
    together, apart = torch.autograd.grad(loss, leaves), torch.autograd.grad(sum(singles), leaves)
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    unweighted = ops.style_loss(features, targets)
    assert torch.equal(unweighted, ops.style_loss(features, targets, [1] * len(channels)))


def test_layers_of_several_dtypes(device: torch.device) -> None:
    (half, double), targets = layers(device, 6, 11)
    features = [half.half(), double.double()]
    loss = ops.style_loss(features, targets)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, ops.style_loss.reference(features, targets), rtol=1e-6, atol=0)
    features = [half.half(), double.bfloat16()]
    loss = ops.style_loss(features, [t.half() for t in targets])
    assert loss.dtype == torch.float32
    expected = ops.style_loss.reference(features, [t.half() for t in targets])
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_layers_of_several_dtypes_in_any_order(device: torch.device) -> None:
    """Of maps that are dense in no order a cast makes some that are."""
    wide = data.feature_map(2, 8, 6, 16).to(device)
    for crop in (wide.to(memory_format=torch.channels_last)[..., ::2], wide.mT[..., 1:], wide[..., ::2]):
        features, targets = [crop.half(), wide[:, :3]], [torch.eye(8, device=device), torch.eye(3, device=device)]
        features[0] = torch.empty_strided(crop.shape, crop.stride(), dtype=torch.float16, device=device).copy_(crop)
        loss, expected = ops.style_loss(features, targets), ops.style_loss.reference(features, targets)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_after_more_empty_layers_than_a_launch_takes(device: torch.device) -> None:
    (feature,), (target,) = layers(device, 6)
    empty, nothing = [feature[:0]] * 16, [target] * 16
    loss = ops.style_loss([*empty, feature], [*nothing, target])
    assert torch.equal(loss, ops.style_loss([feature], [target])) and loss > 0


def test_backward_twice_and_of_targets_alone(device: torch.device) -> None:
    features, targets = layers(device, 6, 11)
    leaves = [t.requires_grad_() for t in features]
    loss = ops.style_loss(leaves, targets)
    first, second = (torch.autograd.grad(loss, leaves, retain_graph=True) for _ in range(2))
    assert all(map(torch.equal, first, second))
    wanted = [t.clone().requires_grad_() for t in targets]
    loss = ops.style_loss([f.detach() for f in features], wanted)
    firsts = torch.autograd.grad(loss, wanted, create_graph=True)
    (again,) = torch.autograd.grad(sum(f.sum() for f in firsts), wanted[:1])
    # of |gram - target|^2, the mean over two images where they share a target
    torch.testing.assert_close(again, torch.full_like(again, 2.0))


def test_what_comes_after_the_loss(device: torch.device) -> None:
    """The gradient of the loss is a number like any other; zero, infinite, of each time its own."""
    features, targets = layers(device, 6, 11, 70)
    features[1] = features[1].to(memory_format=torch.channels_last)
    leaves = [t.requires_grad_() for t in features]
    ones = torch.autograd.grad(ops.style_loss(leaves, targets), leaves)
    loss = ops.style_loss(leaves, targets)
    for factor in (-3.0, 1.0, 0.0, 2.0**-20):
        scaled = torch.autograd.grad(loss * factor, leaves, retain_graph=True)
        for s, one in zip(scaled, ones, strict=True):
            wanted = one * factor
            torch.testing.assert_close(s, wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())
            assert s.stride() == one.stride()
    (infinite,) = torch.autograd.grad(loss * float("inf"), leaves[:1])
    assert not infinite.isfinite().any()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    total = ops.style_loss(leaves, targets) * 0.5 + leaves[0].sum()
    total.backward()
    torch.testing.assert_close(leaves[0].grad, ones[0] * 0.5 + 1)
    torch.testing.assert_close(leaves[2].grad, ones[2] * 0.5)


def test_one_map_as_several_layers(device: torch.device) -> None:
    (feature,), (target,) = layers(device, 6)
    leaf = feature.requires_grad_()
    loss = ops.style_loss([leaf, leaf], [target, target.mT * 2])
    expected = ops.style_loss.reference([leaf, leaf], [target, target.mT * 2])
    for _ in range(2):
        grads = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in (loss, expected)]
        torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-7)


def test_a_batch_of_gradients(device: torch.device) -> None:
    features, targets = layers(device, 6, 11)
    leaves = [t.requires_grad_() for t in features]
    loss = ops.style_loss(leaves, targets)
    many = torch.autograd.grad(loss, leaves, torch.tensor([1.0, -2.0], device=device), is_grads_batched=True)
    once = torch.autograd.grad(ops.style_loss(leaves, targets), leaves)
    for batch, one in zip(many, once, strict=True):
        torch.testing.assert_close(batch, torch.stack([one, -2 * one]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("gradients", "factor", "message"),
    [
        ([torch.zeros(1, 2, 3, 4)], torch.ones(2), "a number for factor, float32 or float64"),
        ([torch.zeros(1, 2, 3, 4).half()], torch.ones(()).half(), "a number for factor, float32 or float64"),
        ([torch.zeros(1, 2, 3, 4).double()], torch.ones(()), "dense gradients of the dtype of factor"),
        ([torch.zeros(1, 2, 3, 8)[..., ::2]], torch.ones(()), "dense gradients of the dtype of factor"),
    ],
)
def test_what_is_not_scaled(gradients: list[Tensor], factor: Tensor, message: str, device: torch.device) -> None:
    given = [torch.empty_strided(g.shape, g.stride(), dtype=g.dtype, device=device) for g in gradients]
    with pytest.raises(ValueError, match=f"style_loss_scale_: expected {message}"):
        torch.ops.fastvision.style_loss_scale_(given, factor.to(device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_gradients_than_a_launch_takes(dtype: torch.dtype, device: torch.device) -> None:
    """Sizes around those of a pack and of a block."""
    sizes = [0, 1, 3, 4, 5, 1023, 16383, 16384, 16385, 40000, *range(20)]
    plain = [torch.rand(1, 1, 1, size, dtype=dtype).to(device) for size in sizes]
    scaled = [p.clone() for p in plain]
    factor = torch.full((), 0.3, dtype=dtype, device=device)
    torch.ops.fastvision.style_loss_scale_(scaled, factor)
    assert all(torch.equal(s, p * factor) for s, p in zip(scaled, plain, strict=True))
    torch.library.opcheck(torch.ops.fastvision.style_loss_scale_.default, (scaled[:5], factor))


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float64), (torch.float16, torch.bfloat16)], ids=str)
def test_gradients_of_layers_of_several_dtypes(dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    features, targets = layers(device, 6, 11)
    leaves = [f.to(dtype).requires_grad_() for f, dtype in zip(features, dtypes, strict=True)]
    actual, expected = (
        torch.autograd.grad(op(leaves, targets, [3.0, 0.5], normalize="hw"), leaves)
        for op in (ops.style_loss, ops.style_loss.reference)
    )
    for a, e, dtype in zip(actual, expected, dtypes, strict=True):
        tolerance = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
        assert a.dtype == dtype
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * e.abs().max().item())


def test_a_quarter_of_it_is_gatys(device: torch.device) -> None:
    """Gatys et al. 2016, eq. 4: E_l = 1 / (4 N_l^2 M_l^2) sum_ij (G_ij - A_ij)^2, N_l channels of M_l pixels, eq. 3:
    G_ij = sum_k F_ik F_jk; eq. 5: L = sum_l w_l E_l."""
    content = [data.feature_map(1, c, 6, 8, seed=c).to(device) for c in (4, 7)]
    style = [data.feature_map(1, c, 6, 8, seed=9 + c).to(device) for c in (4, 7)]
    w = [0.2, 0.8]
    gatys = torch.zeros((), dtype=torch.float64, device=device)
    for f, s, w_l in zip(content, style, w, strict=True):
        n, m = f.shape[1], 6 * 8
        g, a = product(f)[0], product(s)[0]
        gatys += w_l * (g - a).square().sum() / (4 * n**2 * m**2)
    loss = ops.style_loss(content, [ops.gram_matrix(s) for s in style], w, normalize="chw")
    torch.testing.assert_close(loss.double() / 4, gatys, rtol=1e-5, atol=0)


def test_no_loss_where_the_style_is_met(device: torch.device) -> None:
    features, _ = layers(device, 6, 70)
    leaves = [f.requires_grad_() for f in features]
    loss = ops.style_loss(leaves, [ops.gram_matrix(f).detach() for f in features])
    assert loss == 0 and not any(g.any() for g in torch.autograd.grad(loss, leaves))


@NORMALIZE
def test_a_map_of_ones_changes_nothing(normalize: Any, device: torch.device) -> None:
    features, targets = layers(device, 6, 11)
    ones = [torch.ones(f.shape[-2:], device=device) for f in features]
    for f, m in zip(features, ones, strict=True):
        assert torch.equal(ops.gram_matrix(f, normalize, weight_map=m), ops.gram_matrix(f, normalize))
    plain = ops.style_loss(features, targets, normalize=normalize)
    assert torch.equal(ops.style_loss(features, targets, normalize=normalize, weight_maps=ones), plain)


def test_second_derivative_of_the_loss(device: torch.device) -> None:
    features, targets = layers(device, 3, 4, dtype=torch.float64)
    leaves = [t.detach()[..., :3, :3].clone().requires_grad_() for t in (*features, targets[0])]
    leaves.append(targets[1].detach().clone().requires_grad_())

    def loss(*tensors: Tensor) -> Tensor:
        return ops.style_loss(tensors[:2], tensors[2:], [0.5, 2.0], normalize="hw")

    assert torch.autograd.gradcheck(loss, leaves) and torch.autograd.gradgradcheck(loss, leaves)


def test_second_derivative_of_a_layer_without_pixels(device: torch.device) -> None:
    features, targets = layers(device, 3, 3, dtype=torch.float64)
    leaves = [features[0].requires_grad_(), features[1][:, :, :0].detach().requires_grad_()]
    targets = [t.detach().requires_grad_() for t in targets]
    results = []
    for op in (ops.style_loss, ops.style_loss.reference):
        first = torch.autograd.grad(op(leaves, targets, [0.5, 2.0]), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(f.square().sum() for f in first), (*leaves, *targets)))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    assert results[0][2].any() and not results[0][3].any()


def test_compiled_with_its_gradient(device: torch.device) -> None:
    features, targets = layers(device, 6, 11)
    leaves = [f.requires_grad_() for f in features]

    def loss(*maps: Tensor) -> Tensor:
        return ops.style_loss([m.relu() for m in maps], targets, [0.5, 2.0], normalize="hw") * 3

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual, expected = compiled(*leaves), loss(*leaves)
    torch.testing.assert_close(actual, expected)
    for a, e in zip(torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(a, e)
    torch._dynamo.reset()


def test_autocast_leaves_dtypes_alone(device: torch.device) -> None:
    features, targets = layers(device, 6, 11)
    half = [f.bfloat16() for f in features]
    plain, loss = ops.gram_matrix(features[0]), ops.style_loss(half, targets)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(ops.gram_matrix(features[0]), plain) and plain.dtype == torch.float32
        assert ops.gram_matrix(half[0]).dtype == torch.bfloat16
        inside = ops.style_loss(half, targets)
        assert torch.equal(inside, loss) and inside.dtype == torch.float32


@pytest.mark.parametrize("target", [(3, 4), (3, 3, 3), (1, 4, 4), (3,), (1, 1, 3, 3)], ids=str)
def test_a_target_of_another_shape(target: tuple[int, ...], device: torch.device) -> None:
    good, message = (
        torch.zeros(2, 3, 4, 5, device=device),
        r"target of layer 1 to be a Gram matrix \[3, 3\], or 2 of them",
    )
    matrix = torch.zeros(3, 3, device=device)
    with pytest.raises(ValueError, match=f"style_loss: expected the {message}"):
        ops.style_loss([good, good], [matrix, torch.zeros(target, device=device)])


def test_bad_layers(device: torch.device) -> None:
    good, target = torch.zeros(2, 3, 4, 5, device=device), torch.zeros(3, 3, device=device)
    message = "style_loss: expected as many targets and weights as features"
    with pytest.raises(ValueError, match=f"{message}, .* got 2 features, 1 targets and 2 weights"):
        ops.style_loss([good, good], [target])
    with pytest.raises(ValueError, match=f"{message}, .* got 1 features, 1 targets and 3 weights"):
        ops.style_loss([good], [target], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=f"{message}, and at least one, got 0 features"):
        ops.style_loss([], [])
    with pytest.raises(ValueError, match="style_loss: expected 1 weight_maps, got 2"):
        ops.style_loss([good], [target], weight_maps=[torch.ones(4, 5, device=device)] * 2)
    with pytest.raises(ValueError, match="style_loss: expected normalize"):
        ops.style_loss([good], [target], normalize="wh")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="style_loss: expected targets of dtype float32"):
        ops.style_loss([good], [target.long()])
    with pytest.raises(ValueError, match="style_loss: expected features of dtype float32"):
        ops.style_loss([good.int()], [target])
    with pytest.raises(ValueError, match=r"style_loss: expected features of shape \[B, C, H, W\]"):
        ops.style_loss([good[0]], [target])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [0, 2]}, r"expected layers in \[0, 2\), got 2"),
        ({"layers": [-1]}, r"expected layers in \[0, 2\), got -1"),
        ({"differences": torch.zeros(33)}, r"expected differences of shape \[34\], got \[33\]"),
        ({"differences": torch.zeros(2, 17)}, r"expected differences of shape \[34\], got \[2, 17\]"),
        ({"grad": torch.ones((), dtype=torch.float64)}, "expected grad and differences of one dtype"),
        ({"grad": torch.ones(2)}, "expected .* a number for grad"),
        ({"grad": torch.ones(()).half(), "differences": torch.zeros(34).half()}, "expected .* float32 or float64"),
        ({"weights": [1.0]}, "as many weights and divisors as features, got 2 features, 1 weights and 2 divisors"),
        ({"divisors": [1, 2, 3]}, "as many weights and divisors as features, got 2 features, 2 weights and 3 divisors"),
        ({"features": [], "weights": [], "divisors": []}, "as many weights and divisors as features, got 0 features"),
        ({"features": [torch.zeros(2, 3, 4), torch.zeros(1, 4, 2, 2)]}, r"expected features of shape \[B, C, H, W\]"),
    ],
)
def test_what_the_gradient_is_not_made_of(change: dict[str, Any], message: str, device: torch.device) -> None:
    call: dict[str, Any] = {
        "grad": torch.ones(()),
        "differences": torch.zeros(34),  # 2 x 3 x 3 + 4 x 4
        "features": [torch.zeros(2, 3, 4, 5), torch.zeros(1, 4, 2, 2)],
        "weights": [1.0, 2.0],
        "divisors": [60, 16],
        "layers": [0, 1],
    }
    backward, moved = torch.ops.fastvision.style_loss_backward, tree_map_only(Tensor, lambda t: t.to(device), call)
    assert [g.shape for g in backward(**moved)] == [f.shape for f in call["features"]]
    with pytest.raises(ValueError, match=f"style_loss_backward: .*{message}"):
        backward(**{**moved, **tree_map_only(Tensor, lambda t: t.to(device), change)})
