"""Gradients of the style loss: of what asks for them, once and again, with the loss and after it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from style_checks import layers
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from fastvision import _library, ops

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")
_module = sys.modules["fastvision.ops.style.style_loss"]
_ahead_pays = _module._ahead_pays  # type: ignore[attr-defined]


@pytest.fixture(params=["ahead", "after"], autouse=True)
def both_ways_to_gradients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are computed with the loss on a GPU, after it elsewhere, and both work on both."""
    monkeypatch.setattr(_module, "_ahead_pays", alike if request.param == "ahead" else lambda *_: False)


def alike(features: list[Tensor], targets: list[Tensor]) -> bool:
    one_dtype = {f.dtype for f in features} in ({torch.float32}, {torch.float64})
    return one_dtype and not any(t.requires_grad for t in targets)


def test_where_gradients_come_with_the_loss(device: torch.device) -> None:
    features, targets = layers(device, 5, 6)
    gpu = device.type == "cuda"
    assert _ahead_pays(features, targets) == gpu
    assert _ahead_pays([f.double() for f in features], targets) == gpu
    assert not _ahead_pays([f.bfloat16() for f in features], targets)
    assert not _ahead_pays([features[0], features[1].double()], targets)
    assert not _ahead_pays(features, [targets[0], targets[1].requires_grad_()])


def test_gradients_of_what_asks_for_them(device: torch.device) -> None:
    features, targets = layers(device, 5, 6, 7)
    everything = [t.requires_grad_() for t in (*features, *targets)]
    expected = torch.autograd.grad(ops.style_loss(features, targets), everything)
    for wanted in ([0], [1, 5], [4], [2, 3]):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(everything)]
        found = torch.autograd.grad(ops.style_loss(leaves[:3], leaves[3:]), [leaves[i] for i in wanted])
        assert all(torch.equal(f, expected[i]) for i, f in zip(wanted, found, strict=True))


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
    """The gradient of the loss is a number like any other, the first time and later."""
    features, targets = layers(device, 6, 11, 70)
    features[1] = features[1].to(memory_format=torch.channels_last)
    leaves = [t.requires_grad_() for t in features]
    ones = torch.autograd.grad(ops.style_loss(leaves, targets), leaves)
    for factor in (-3.0, 1.0, 0.0, 2.0**-20):
        loss = ops.style_loss(leaves, targets)
        for _ in range(2):
            scaled = torch.autograd.grad(loss * factor, leaves, retain_graph=True)
            for s, one in zip(scaled, ones, strict=True):
                wanted = one * factor
                torch.testing.assert_close(s, wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())
                assert s.stride() == one.stride()
    loss = ops.style_loss(leaves, targets)
    (infinite,) = torch.autograd.grad(loss * float("inf"), leaves[:1])
    assert not infinite.isfinite().any()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    total = ops.style_loss(leaves, targets) * 0.5 + leaves[0].sum()
    total.backward()
    torch.testing.assert_close(leaves[0].grad, ones[0] * 0.5 + 1)
    torch.testing.assert_close(leaves[2].grad, ones[2] * 0.5)


@pytest.mark.parametrize("again", [{"create_graph": True}, {"retain_graph": True}], ids=str)
def test_in_a_checkpoint(again: dict[str, bool], device: torch.device) -> None:
    """Whose tensors may be asked for once."""
    features, targets = layers(device, 6, 11)
    leaves = [t.requires_grad_() for t in features]

    def loss(*maps: Tensor) -> Tensor:
        return ops.style_loss([m.sin() for m in maps], targets) * 2

    expected = torch.autograd.grad(loss(*leaves), leaves)
    out = checkpoint(loss, *leaves, use_reentrant=False)
    for options in (again, {}):
        for actual, e in zip(torch.autograd.grad(out, leaves, **options), expected, strict=True):
            torch.testing.assert_close(actual, e, rtol=1e-5, atol=1e-6 * e.abs().max().item())


def test_targets_are_read_once(device: torch.device) -> None:
    """They may be made in inference mode, and changed once the loss is known."""
    features, targets = layers(device, 6, 11)
    with torch.inference_mode():
        style = [t.clone() for t in targets]
    leaves = [t.requires_grad_() for t in features]
    first = torch.autograd.grad(ops.style_loss(leaves, style), leaves, create_graph=True)
    loss = ops.style_loss(leaves, targets)
    targets[0].zero_()
    for again in (True, False):
        for a, b in zip(torch.autograd.grad(loss, leaves, create_graph=again), first, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())


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


@pytest.mark.parametrize("of_targets", [False, True])
def test_second_derivative_of_the_loss(of_targets: bool, device: torch.device) -> None:
    features, targets = layers(device, 3, 4, dtype=torch.float64)
    leaves = [t.detach()[..., :3, :3].clone().requires_grad_() for t in features]
    targets = [t.detach().clone().requires_grad_(of_targets) for t in targets]
    leaves += targets if of_targets else []

    def loss(*tensors: Tensor) -> Tensor:
        return ops.style_loss(tensors[:2], tensors[2:] or targets, [0.5, 2.0], normalize="hw")

    assert torch.autograd.gradcheck(loss, leaves) and torch.autograd.gradgradcheck(loss, leaves)


def test_without_a_gradient_of_the_loss(device: torch.device) -> None:
    """As style_loss_backward is called ahead; None is 1 in its derivatives too."""
    features, targets = layers(device, 3, 4, dtype=torch.float64)
    _, differences = torch.ops.fastvision.style_loss(features, targets, [0.5, 2.0], [6, 7])
    leaves = [t.requires_grad_() for t in (differences, *features)]
    results = []
    for grad in (None, torch.ones((), dtype=torch.float64, device=device)):
        out = torch.ops.fastvision.style_loss_backward(grad, leaves[0], leaves[1:], [0.5, 2.0], [6, 7], [0, 1])
        results.append((*out, *torch.autograd.grad(sum(o.square().sum() for o in out), leaves)))
    assert all(map(torch.equal, *results))


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
