"""Gram matrices of feature maps and the style loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastvision import _eager, reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.reference.style.gram_matrix import Normalize, gram_divisor, guided, layers_of


@with_reference(reference.style.gram_matrix)
def gram_matrix(features: Tensor, normalize: Normalize = "chw", *, weight_map: Tensor | None = None) -> Tensor:
    """Which channels of a feature map fire together: the products of all pairs, summed over pixels.

    Only the lower half is computed. Sums are float32 (float64 for float64) and scaled before they are rounded to a half
    type, so that float16 features do not overflow. Bitwise the same in every run and for every number of threads. On a
    GPU a float32 product is three products of 11-bit parts (TF32), whatever torch was told of TF32, and as accurate as
    one of float32 to 1e-6 of the result where all numbers have one sign.

    Args:
        features: ``[B, C, H, W]``, or ``[C, H, W]`` without a batch; NCHW and channels_last are read in place.
        normalize: divide by ``C H W`` (Johnson et al. 2016), by ``H W``, or by nothing (Gatys et al. 2016).
        weight_map: ``[H, W]`` or ``[B, H, W]``: features are multiplied by it, for the style of a region. It is
            scaled to a mean square of 1 unless ``normalize`` is ``"none"``, so that regions of any size compare.

    Shapes:
        ``[B, C, H, W] -> [B, C, C]`` in the dtype of ``features``. Differentiable in ``features`` and ``weight_map``,
        any number of times.

    Raises:
        ValueError: other shapes or dtypes, an unknown ``normalize``.

    Complexity:
        ``O(B C^2 H W)``; memory beside input and output ``O(B C^2)`` and, per chunk of pixels, ``C^2``.

    Reference:
        Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks", eq. 3; regions: Gatys et
        al. 2017, "Controlling Perceptual Factors in Neural Style Transfer", section 4.
    """
    if features.dim() == 3:
        return gram_matrix(features[None], normalize, weight_map=weight_map)[0]
    divisor, dtype = gram_divisor("gram_matrix", features, normalize), features.dtype
    if weight_map is not None:
        features = guided("gram_matrix", features, weight_map, normalize)
    return call("gram_matrix", features, divisor).to(dtype)


@with_reference(reference.style.style_loss)
def style_loss(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    normalize: Normalize = "chw",
    weight_maps: Sequence[Tensor] | None = None,
) -> Tensor:
    """How far the Gram matrices of an image's features are from those of the style, over all layers in one call.

    The sum over layers of ``weight`` times the batch mean of the squared Frobenius norm of ``gram(feature) - target``.

    Args:
        features: one ``[B, C_l, H_l, W_l]`` a layer.
        targets: their :func:`gram_matrix` in the style image, ``[C_l, C_l]`` or ``[B, C_l, C_l]``, equally normalised.
        weights: one number a layer; None: 1 each.
        normalize: as in :func:`gram_matrix`.
        weight_maps: one a layer, as in :func:`gram_matrix`; the style of one region.

    Shapes:
        ``L x [B, C_l, H_l, W_l] -> []``; float32, float64 if any layer is. Differentiable in ``features`` and
        ``targets``, any number of times.

    Raises:
        ValueError: another number of targets or weights than of features, no features, shapes, dtypes or devices that
            do not fit, an unknown ``normalize``.

    Complexity:
        ``O(sum_l B C_l^2 H_l W_l)``, forward and backward each.

    Reference:
        Johnson et al. 2016, eq. 4: ``normalize="chw"``; Gatys, Ecker & Bethge 2016, eq. 4 and 5, take a quarter of it.
    """
    weights = layers_of("style_loss", features, targets, weights)
    divisors = [gram_divisor("style_loss", f, normalize) for f in features]
    if weight_maps is not None:
        if len(weight_maps) != len(features):
            raise ValueError(f"style_loss: expected {len(features)} weight_maps, got {len(weight_maps)}")
        features = [guided("style_loss", f, m, normalize) for f, m in zip(features, weight_maps, strict=True)]
    loss, _ = call("style_loss", list(features), list(targets), weights, divisors)
    return loss


@register_fake("gram_matrix")
def _(features: Tensor, divisor: int) -> Tensor:
    return features.new_empty(features.shape[0], features.shape[1], features.shape[1])


@register_fake("gram_matrix_backward")
def _(grad: Tensor, features: Tensor, divisor: int) -> Tensor:
    return empty_map(features, features.shape, is_channels_last(features))


@register_fake("style_loss")
def _(
    features: list[Tensor], targets: list[Tensor], weights: list[float], divisors: list[int]
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if any(f.dtype == torch.float64 for f in features) else torch.float32
    size = sum(f.shape[0] * f.shape[1] * f.shape[1] for f in features)
    return features[0].new_empty((), dtype=wide), features[0].new_empty(size, dtype=wide)


@register_fake("style_loss_backward")
def _(
    grad: Tensor,
    differences: Tensor,
    features: list[Tensor],
    weights: list[float],
    divisors: list[int],
    layers: list[int],
) -> list[Tensor]:
    return [empty_map(features[layer], features[layer].shape, is_channels_last(features[layer])) for layer in layers]


def _save_gram(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, ctx.divisor = inputs
    ctx.save_for_backward(features)


def _gram_backward(ctx: Any, grad: Tensor) -> Any:
    (features,) = ctx.saved_tensors
    return call("gram_matrix_backward", grad, features, ctx.divisor), None


def _save_gram_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, features, ctx.divisor = inputs
    ctx.save_for_backward(grad, features)


def _gram_double_backward(ctx: Any, above: Tensor) -> Any:
    """out = (grad + grad^T) features / divisor, bilinear; the symmetric factor has its own transpose as gradient."""
    grad, features = ctx.saved_tensors
    to_grad = _symmetric_product(above, features, ctx.divisor).to(grad.dtype)
    return to_grad, call("gram_matrix_backward", grad, above, ctx.divisor), None


def _symmetric_product(a: Tensor, b: Tensor, divisor: int) -> Tensor:
    """[B, C, H, W] twice -> (a b^T + b a^T) / divisor [B, C, C], in float32 at least."""
    wide = torch.promote_types(b.dtype, torch.float32)  # before the sum over pixels is divided
    rows = (*b.shape[:2], b.shape[2] * b.shape[3])  # not flatten: torch has no rule to batch it
    product = torch.bmm(a.reshape(rows).to(wide), b.reshape(rows).transpose(1, 2).to(wide))
    return (product + product.transpose(1, 2)) / max(divisor, 1)


def _save_style_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, targets, ctx.weights, ctx.divisors = inputs
    ctx.targets = [(t.dim(), t.dtype) for t in targets]
    ctx.save_for_backward(*features, output[1])
    ctx.set_materialize_grads(False)


def _style_loss_backward(ctx: Any, grad: Tensor | None, to_differences: Tensor | None) -> Any:
    """The differences are an output like any other, so that a second derivative passes through them."""
    *features, differences = ctx.saved_tensors
    wanted, wanted_of_targets = ctx.needs_input_grad[:2]
    to_features: list[Tensor | None] = [None] * len(features)
    to_targets: list[Tensor | None] = [None] * len(features)
    # all in one call; a batch of gradients takes one product at a time, which torch knows how to repeat
    together = grad is not None and to_differences is None and _eager.is_plain()
    if together:
        layers = [layer for layer, wants in enumerate(wanted) if wants]
        if layers:
            found = call("style_loss_backward", grad, differences, features, ctx.weights, ctx.divisors, layers)
            for layer, gradient in zip(layers, found, strict=True):
                to_features[layer] = gradient
        if True not in wanted_of_targets:
            return to_features, to_targets, None, None
    for layer, (feature, part, factor) in enumerate(_layers(features, ctx.weights)):
        alone = wanted[layer] and not together
        if not alone and not wanted_of_targets[layer]:
            continue
        parts = [] if to_differences is None else [to_differences[part]]
        if grad is not None:
            parts.append(differences[part] * (grad * factor))
        if not parts:
            continue
        flowing = sum(parts[1:], parts[0]).view(len(feature), feature.shape[1], feature.shape[1])
        if alone:
            to_features[layer] = call("gram_matrix_backward", flowing, feature, ctx.divisors[layer])
        if wanted_of_targets[layer]:
            dims, dtype = ctx.targets[layer]
            to_targets[layer] = (-flowing if dims == 3 else -flowing.sum(0)).to(dtype)
    return to_features, to_targets, None, None


def _layers(features: Sequence[Tensor], weights: Sequence[float]) -> Iterator[tuple[Tensor, slice, float]]:
    """Features, where their differences lie among all, and twice the weight of an image."""
    start = 0
    for feature, weight in zip(features, weights, strict=True):
        batch, channels = feature.shape[:2]
        end = start + batch * channels * channels
        yield feature, slice(start, end), 2 * weight / max(batch, 1)
        start = end


def _save_style_loss_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, differences, features, ctx.weights, ctx.divisors, ctx.layers = inputs
    ctx.save_for_backward(grad, differences, *features)


def _style_loss_double_backward(ctx: Any, above: Sequence[Tensor | None]) -> Any:
    """Of each layer, out = factor grad (difference + difference^T) feature / divisor: linear in each of the three."""
    grad, differences, *features = ctx.saved_tensors
    to_grad = torch.zeros_like(grad)
    to_differences: list[Tensor] = []
    to_features: list[Tensor | None] = [None] * len(features)
    above_of = dict(zip(ctx.layers, above, strict=True))
    for layer, (feature, part, factor) in enumerate(_layers(features, ctx.weights)):
        gradient = above_of.get(layer)
        if gradient is None:
            to_differences.append(torch.zeros_like(differences[part]))
            continue
        product = _symmetric_product(gradient, feature, ctx.divisors[layer]).to(grad.dtype).reshape(-1) * factor
        to_grad = to_grad + (differences[part] * product).sum()
        to_differences.append(grad * product)
        flowing = (differences[part] * (grad * factor)).view(len(feature), feature.shape[1], feature.shape[1])
        to_features[layer] = call("gram_matrix_backward", flowing, gradient, ctx.divisors[layer])
    return to_grad, torch.cat(to_differences), to_features, None, None, None


register_autograd("gram_matrix", _gram_backward, _save_gram)
register_autograd("gram_matrix_backward", _gram_double_backward, _save_gram_backward)
register_autograd("style_loss", _style_loss_backward, _save_style_loss)
register_autograd("style_loss_backward", _style_loss_double_backward, _save_style_loss_backward)
