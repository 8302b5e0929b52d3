"""Eager calls take a short way round torch.library; where it would not see enough, they must not."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastvision import _eager, _library, ops

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing is registered")


def gram(x: Tensor) -> Tensor:
    return ops.gram_matrix(x)


def norm(x: Tensor) -> Tensor:
    return ops.instance_norm(x)


def pooled(x: Tensor) -> Tensor:
    return ops.roi_align(x, x.new_tensor([[0, 0, 0, 4, 5]]), (2, 2))


def pyramid(x: Tensor) -> Tensor:
    features, boxes = [x, x[..., ::2, ::2]], x.new_tensor([[0, 0, 0, 4, 5]])
    return ops.multiscale_roi_align(features, boxes, (2, 2), spatial_scales=[1.0, 0.5], canonical_scale=4)


def total(x: Tensor) -> Tensor:
    return ops.total_variation_loss(x)


def style(x: Tensor) -> Tensor:
    targets = [torch.eye(3, dtype=x.dtype), torch.ones(1, 3, 3, dtype=x.dtype)]
    return ops.style_loss([x, x[..., ::2, ::2]], targets, [0.5, 2.0], normalize="hw")


def sensitive(x: Tensor) -> Tensor:
    return ops.ps_roi_align(x, x.new_tensor([[0, 0, 0, 4, 5]]), (1, 3))


FUNCTIONS = [gram, norm, pooled, pyramid, sensitive, style, total]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, 3, 6, 7, dtype=torch.float64, requires_grad=True)


def test_the_short_way_is_taken(monkeypatch: pytest.MonkeyPatch, x: Tensor) -> None:
    if not _eager._AVAILABLE:
        pytest.skip("this torch lacks what the short way needs")
    taken = []
    monkeypatch.setattr(_eager, "without_gradient", lambda op, args: taken.append("without") or op(*args))
    monkeypatch.setattr(_library, "_function", lambda name: lambda *args: taken.append(name))
    gram(x.detach())
    with torch.no_grad():
        gram(x)
    with pytest.raises(AttributeError):  # of the None that stands for the result
        gram(x)
    assert taken == ["without", "without", "gram_matrix"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_as_the_op(function: Callable[[Tensor], Tensor], x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and theirs are those of the long way."""

    def derivatives() -> list[Tensor]:
        value = function(x)
        (first,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        return [value.detach(), first.detach(), second]

    short = derivatives()
    monkeypatch.setattr(_eager, "is_plain", lambda: False)
    for actual, expected in zip(short, derivatives(), strict=True):
        if function is style:  # all layers in one sum
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(actual, expected)
    assert short[2].abs().sum() > 0


def test_boxes_as_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = torch.tensor([[0.0, 0, 4, 5], [1, 2, 6, 7], [3, 1, 9, 4]], dtype=torch.float64)
    deltas, boxes = torch.randn(3, 4, dtype=torch.float64).requires_grad_(), corners.clone().requires_grad_()

    def derivatives() -> list[Tensor]:
        decoded, encoded = ops.decode_boxes(deltas, boxes), ops.encode_boxes(boxes, corners.flip(0))
        overlaps = ops.box_iou(decoded, corners)
        loss = decoded.square().sum() + encoded.square().sum() + overlaps.sum()
        return [decoded.detach(), encoded.detach(), overlaps.detach(), *torch.autograd.grad(loss, (deltas, boxes))]

    short = derivatives()
    monkeypatch.setattr(_eager, "is_plain", lambda: False)
    assert all(map(torch.equal, short, derivatives()))
    long_way = ops.decode_boxes(deltas, boxes).sum()
    monkeypatch.undo()
    for value in (long_way, ops.decode_boxes(deltas, boxes).sum()):
        (first,) = torch.autograd.grad(value, deltas, create_graph=True)
        with pytest.raises(RuntimeError, match="decode_boxes_backward has no second derivative"):
            first.sum().backward()


@pytest.mark.parametrize("function", [gram, norm, style, total])
def test_gradients_of_batches_of_gradients(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    value = function(x)
    grads = torch.randn(2, *value.shape, dtype=x.dtype)

    def derivatives(batched: bool) -> tuple[Tensor, Tensor]:
        parts = (grads,) if batched else grads
        how = {"is_grads_batched": batched, "create_graph": True}
        firsts = [torch.autograd.grad(value, x, part, **how)[0] for part in parts]
        first = firsts[0] if batched else torch.stack(firsts)
        assert first.requires_grad
        return first.detach(), torch.autograd.grad(first.square().sum(), x, retain_graph=True)[0]

    together, apart = derivatives(batched=True), derivatives(batched=False)
    torch.testing.assert_close(together, apart)
    assert together[1].abs().sum() > 0


@pytest.mark.parametrize("function", [gram, style, total])
def test_hessians_in_one_batch(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    def scalar(image: Tensor) -> Tensor:
        return function(image).square().sum()

    image = x.detach()[..., :3, :4]
    rows, batch = (torch.autograd.functional.hessian(scalar, image, vectorize=v) for v in (False, True))
    torch.testing.assert_close(batch, rows)
    assert rows.abs().sum() > 0


def test_vmap_keeps_gradients(x: Tensor) -> None:
    assert torch.vmap(gram)(x[None]).requires_grad
    weight = nn.Parameter(torch.ones(3, dtype=x.dtype))
    (to_weight,) = torch.autograd.grad(torch.vmap(lambda a: ops.instance_norm(a, weight))(x[None]).sum(), weight)
    assert to_weight.shape == weight.shape


def test_traces_can_be_saved(x: Tensor) -> None:
    layer = ops.InstanceNorm2d(3, affine=True).double()
    traced = torch.jit.trace(layer, x)
    saved = io.BytesIO()
    torch.jit.save(traced, saved)
    saved.seek(0)
    assert torch.equal(torch.jit.load(saved)(x), layer(x))
