"""The style loss: against Gram matrices by torch.bmm, at the edges, and what the papers say of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from style_checks import divisor, layers, product
from torch import Tensor

from fastvision import _library, ops
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")
NORMALIZE = pytest.mark.parametrize("normalize", ["chw", "hw", "none"])


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
