"""Gram matrices of feature maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.reference.style.gram_matrix import Normalize, gram_divisor, guided


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


@register_fake("gram_matrix")
def _(features: Tensor, divisor: int) -> Tensor:
    return features.new_empty(features.shape[0], features.shape[1], features.shape[1])


@register_fake("gram_matrix_backward")
def _(grad: Tensor, features: Tensor, divisor: int) -> Tensor:
    return empty_map(features, features.shape, is_channels_last(features))


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
    to_grad = symmetric_product(above, features, ctx.divisor).to(grad.dtype)
    return to_grad, call("gram_matrix_backward", grad, above, ctx.divisor), None


def symmetric_product(a: Tensor, b: Tensor, divisor: int) -> Tensor:
    """[B, C, H, W] twice -> (a b^T + b a^T) / divisor [B, C, C], in float32 at least."""
    wide = torch.promote_types(b.dtype, torch.float32)  # before the sum over pixels is divided
    rows = (*b.shape[:2], b.shape[2] * b.shape[3])  # not flatten: torch has no rule to batch it
    product = torch.bmm(a.reshape(rows).to(wide), b.reshape(rows).transpose(1, 2).to(wide))
    return (product + product.transpose(1, 2)) / max(divisor, 1)


register_autograd("gram_matrix", _gram_backward, _save_gram, images=(0,))
register_autograd("gram_matrix_backward", _gram_double_backward, _save_gram_backward, images=(0, 1))
