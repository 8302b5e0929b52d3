"""Gram matrices and the style loss: against torch.bmm, at the edges, and what the papers say of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from roi_checks import bitwise_repeatable
from torch import Tensor

from fastvision import _library, ops
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
NORMALIZE = pytest.mark.parametrize("normalize", ["chw", "hw", "none"])


def product(features: Tensor) -> Tensor:
    """Unscaled, by torch in float64."""
    rows = features.double().flatten(-2)
    return rows @ rows.transpose(-1, -2)


def divisor(features: Tensor, normalize: str) -> int:
    pixels = features[0, 0].numel()
    return {"chw": features.shape[1] * pixels, "hw": pixels, "none": 1}[normalize]


def layers(device: torch.device, *channels: int, batch: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    """Features of some layers, and the Gram matrices of others, of one image where the layer is even."""
    features = [data.feature_map(batch, c, 5 + c % 3, 7, seed=c).to(device, dtype) for c in channels]
    targets = [product(f.flip(-3))[0 if i % 2 == 0 else slice(None)] for i, f in enumerate(features)]
    return features, [(t / f[0].numel()).to(dtype) for f, t in zip(features, targets, strict=True)]


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
@pytest.mark.parametrize("size", [(2, 64, 50, 70), (1, 520, 9, 10)], ids=str)
def test_bitwise_repeatable(size: tuple[int, ...], layout: Any, device: torch.device) -> None:
    features = data.feature_map(*size).to(device).to(memory_format=layout).requires_grad_()
    target = torch.eye(size[1], device=device)

    def results() -> tuple[Tensor, ...]:
        gram = ops.gram_matrix(features)
        loss = ops.style_loss([features, features[:, :9]], [target, target[:9, :9]])
        return gram, loss, *torch.autograd.grad(gram.square().sum() + loss, features)

    bitwise_repeatable(results)


def test_gradients_of_what_asks_for_them(device: torch.device) -> None:
    features, targets = layers(device, 5, 6, 7)
    everything = [t.requires_grad_() for t in (*features, *targets)]
    expected = torch.autograd.grad(ops.style_loss(features, targets), everything)
    for wanted in ([0], [1, 5], [4], [2, 3]):
        leaves = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(everything)]
        found = torch.autograd.grad(ops.style_loss(leaves[:3], leaves[3:]), [leaves[i] for i in wanted])
        assert all(torch.equal(f, expected[i]) for i, f in zip(wanted, found, strict=True))


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


def test_second_derivative_of_the_loss(device: torch.device) -> None:
    features, targets = layers(device, 3, 4, dtype=torch.float64)
    leaves = [t.detach()[..., :3, :3].clone().requires_grad_() for t in (*features, targets[0])]
    leaves.append(targets[1].detach().clone().requires_grad_())

    def loss(*tensors: Tensor) -> Tensor:
        return ops.style_loss(tensors[:2], tensors[2:], [0.5, 2.0], normalize="hw")

    assert torch.autograd.gradcheck(loss, leaves) and torch.autograd.gradgradcheck(loss, leaves)


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
