"""The style loss: Gram matrices of all layers against those of a style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastvision import _eager, reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.ops.style.gram_matrix import symmetric_product
from fastvision.reference.style.gram_matrix import Normalize, gram_divisor, guided, layers_of


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
        ``O(sum_l B C_l^2 H_l W_l)``, forward and backward each. On a GPU the gradients of float32 and float64 features
        that want one are computed with the loss, and kept until its backward.

    Reference:
        Johnson et al. 2016, eq. 4: ``normalize="chw"``; Gatys, Ecker & Bethge 2016, eq. 4 and 5, take a quarter of it.
    """
    weights = layers_of("style_loss", features, targets, weights)
    divisors = [gram_divisor("style_loss", f, normalize) for f in features]
    if weight_maps is not None:
        if len(weight_maps) != len(features):
            raise ValueError(f"style_loss: expected {len(features)} weight_maps, got {len(weight_maps)}")
        features = [guided("style_loss", f, m, normalize) for f, m in zip(features, weight_maps, strict=True)]
    features, targets = list(features), list(targets)
    if _eager.is_plain() and _eager.wants_gradient(features) and _ahead_pays(features, targets):
        wanted = [layer for layer, f in enumerate(features) if f.requires_grad]
        given = [features[layer] for layer in wanted]
        return _GradientsAhead.apply(features, targets, weights, divisors, wanted, *given)
    loss, _ = call("style_loss", features, targets, weights, divisors)
    return loss


def _ahead_pays(features: Sequence[Tensor], targets: Sequence[Tensor]) -> bool:
    """Whether gradients are computed with the loss, as if nothing came after it, and scaled when it is known what did.

    A GPU would otherwise wait for autograd, which comes to a backward in Python 100 us after the forward; one that
    replays a graph does not. A half type has no room for what is not scaled yet; float32 has none where the gradient of
    the bare loss is below 1e-37 or above 1e38.
    """
    first = features[0]
    return (
        first.is_cuda
        and {f.dtype for f in features} in ({torch.float32}, {torch.float64})
        and not _eager.wants_gradient(targets)
        and not torch.cuda.is_current_stream_capturing()
    )


class _GradientsAhead(Function):
    """``style_loss`` of ``features``, of which those ``given``, of the layers ``wanted``, want a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        features: list[Tensor],
        targets: list[Tensor],
        weights: list[float],
        divisors: list[int],
        wanted: list[int],
        *given: Tensor,
    ) -> Tensor:
        loss, differences = call("style_loss", features, targets, weights, divisors)
        ctx.gradients = call("style_loss_backward", None, differences, features, weights, divisors, wanted)
        ctx.weights, ctx.divisors, ctx.wanted = weights, divisors, wanted
        ctx.save_for_backward(*features, differences)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place: there is no second time
        recorded = grad.is_cuda and torch.cuda.is_current_stream_capturing()  # and scaled again by each replay
        if gradients is not None and not recorded and not torch.is_grad_enabled() and _eager.is_plain():
            call("style_loss_scale_", gradients, grad)
            return None, None, None, None, None, *gradients
        *features, differences = ctx.saved_tensors
        if torch.is_grad_enabled():
            differences = _with_history(differences, features, ctx.weights, ctx.divisors)
        wanted = [layer in ctx.wanted for layer in range(len(features))]
        found = _to_features(features, differences, ctx.weights, ctx.divisors, wanted, grad, None)
        return None, None, None, None, None, *[found[layer] for layer in ctx.wanted]


def _with_history(differences: Tensor, features: list[Tensor], weights: list[float], divisors: list[int]) -> Tensor:
    """The same numbers, as a function of the features; what they are the difference to has no part in that."""
    zeros = [differences.new_zeros(f.shape[1], f.shape[1]) for f in features]
    _, grams = call("style_loss", features, zeros, weights, divisors)
    return differences + (grams - grams.detach())


@register_fake("style_loss")
def _(
    features: list[Tensor], targets: list[Tensor], weights: list[float], divisors: list[int]
) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if any(f.dtype == torch.float64 for f in features) else torch.float32
    size = sum(f.shape[0] * f.shape[1] * f.shape[1] for f in features)
    return features[0].new_empty((), dtype=wide), features[0].new_empty(size, dtype=wide)


@register_fake("style_loss_backward")
def _(
    grad: Tensor | None,
    differences: Tensor,
    features: list[Tensor],
    weights: list[float],
    divisors: list[int],
    layers: list[int],
) -> list[Tensor]:
    return [empty_map(features[layer], features[layer].shape, is_channels_last(features[layer])) for layer in layers]


@register_fake("style_loss_scale_")
def _(gradients: list[Tensor], factor: Tensor) -> None:
    pass


def _save_style_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, targets, ctx.weights, ctx.divisors = inputs
    ctx.targets = [(t.dim(), t.dtype) for t in targets]
    ctx.save_for_backward(*features, output[1])
    ctx.set_materialize_grads(False)


def _style_loss_backward(ctx: Any, grad: Tensor | None, to_differences: Tensor | None) -> Any:
    """The differences are an output like any other, so that a second derivative passes through them."""
    *features, differences = ctx.saved_tensors
    wanted, wanted_of_targets = ctx.needs_input_grad[:2]
    to_features = _to_features(features, differences, ctx.weights, ctx.divisors, wanted, grad, to_differences)
    to_targets: list[Tensor | None] = [None] * len(features)
    for layer, flowing in _flows(features, differences, ctx.weights, wanted_of_targets, grad, to_differences):
        dims, dtype = ctx.targets[layer]
        to_targets[layer] = (-flowing if dims == 3 else -flowing.sum(0)).to(dtype)
    return to_features, to_targets, None, None


def _to_features(
    features: list[Tensor],
    differences: Tensor,
    weights: list[float],
    divisors: list[int],
    wanted: Sequence[bool],
    grad: Tensor | None,
    to_differences: Tensor | None,
) -> list[Tensor | None]:
    """Gradients of the features that are wanted, for those of the loss and of the differences."""
    # all in one call; a batch of gradients takes one product at a time, which torch knows how to repeat
    if grad is not None and to_differences is None and _eager.is_plain():
        layers = [layer for layer, wants in enumerate(wanted) if wants]
        found = iter(
            call("style_loss_backward", grad, differences, features, weights, divisors, layers) if layers else []
        )
        return [next(found) if wants else None for wants in wanted]
    to_features: list[Tensor | None] = [None] * len(features)
    for layer, flowing in _flows(features, differences, weights, wanted, grad, to_differences):
        to_features[layer] = call("gram_matrix_backward", flowing, features[layer], divisors[layer])
    return to_features


def _flows(
    features: list[Tensor],
    differences: Tensor,
    weights: list[float],
    wanted: Sequence[bool],
    grad: Tensor | None,
    to_differences: Tensor | None,
) -> Iterator[tuple[int, Tensor]]:
    """The layers that are wanted, and what flows to the Gram matrices [B, C, C] of each."""
    for layer, (feature, part, factor) in enumerate(_layers(features, weights)):
        if not wanted[layer]:
            continue
        parts = [] if to_differences is None else [to_differences[part]]
        if grad is not None:
            parts.append(differences[part] * (grad * factor))
        if parts:
            yield layer, sum(parts[1:], parts[0]).view(len(feature), feature.shape[1], feature.shape[1])


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
    given, differences, *features = ctx.saved_tensors
    grad = differences.new_ones(()) if given is None else given
    to_grad = torch.zeros_like(grad)
    to_differences: list[Tensor] = []
    to_features: list[Tensor | None] = [None] * len(features)
    above_of = dict(zip(ctx.layers, above, strict=True))
    for layer, (feature, part, factor) in enumerate(_layers(features, ctx.weights)):
        gradient = above_of.get(layer)
        if gradient is None:
            to_differences.append(torch.zeros_like(differences[part]))
            continue
        product = symmetric_product(gradient, feature, ctx.divisors[layer]).to(grad.dtype).reshape(-1) * factor
        to_grad = to_grad + (differences[part] * product).sum()
        to_differences.append(grad * product)
        flowing = (differences[part] * (grad * factor)).view(len(feature), feature.shape[1], feature.shape[1])
        to_features[layer] = call("gram_matrix_backward", flowing, gradient, ctx.divisors[layer])
    return None if given is None else to_grad, torch.cat(to_differences), to_features, None, None, None


register_autograd("style_loss", _style_loss_backward, _save_style_loss)
register_autograd("style_loss_backward", _style_loss_double_backward, _save_style_loss_backward)
