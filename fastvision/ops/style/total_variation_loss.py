"""Total variation of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import call, register_autograd, register_fake, with_reference
from fastvision.ops._layout import empty_map, is_channels_last
from fastvision.reference.style.total_variation_loss import reduced


@with_reference(reference.style.total_variation_loss)
def total_variation_loss(images: Tensor, *, norm: str = "l2", reduction: str = "mean") -> Tensor:
    """How much neighbouring pixels differ: what keeps optimised or generated images smooth.

    The sum over all channels and pixels of the squared (``"l2"``) or absolute (``"l1"``) differences to the right
    neighbour and to the one below, for each image. It is not divided by the number of pixels, as in the papers.

    Args:
        images: ``[N, C, H, W]``, any strides.
        norm: ``"l2"`` or ``"l1"``, whose derivative at 0 is 0.
        reduction: over images: ``"mean"`` (0 for an empty batch), ``"sum"`` or ``"none"``.

    Shapes:
        ``[N, C, H, W] -> []``, or ``[N]`` with ``reduction="none"``; float32, of float64 images float64, since the sum
        overflows half types. Differentiable in ``images``, any number of times; bitwise the same in every run and for
        every number of threads.

    Raises:
        ValueError: images of another shape or dtype, an unknown norm or reduction.

    Complexity:
        ``O(N C H W)``, one pass forward and one back.

    Reference:
        Mahendran & Vedaldi 2015, "Understanding Deep Image Representations by Inverting Them", section 3, with beta = 2
        (``"l2"``) or its absolute, anisotropic form; Johnson et al. 2016, "Perceptual Losses", section 3.2.
    """
    return reduced(call("total_variation_loss", images, norm), reduction)


@register_fake("total_variation_loss")
def _(images: Tensor, norm: str) -> Tensor:
    return images.new_empty(images.shape[:1], dtype=torch.promote_types(images.dtype, torch.float32))


@register_fake("total_variation_loss_backward")
def _(grad: Tensor, images: Tensor, norm: str) -> Tensor:
    return empty_map(images, images.shape, is_channels_last(images))


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    images, ctx.norm = inputs
    ctx.save_for_backward(images)


def _backward(ctx: Any, grad: Tensor) -> Any:
    (images,) = ctx.saved_tensors
    return call("total_variation_loss_backward", grad, images, ctx.norm), None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, images, ctx.norm = inputs
    ctx.save_for_backward(grad, images)


def _double_backward(ctx: Any, v: Tensor) -> Any:
    """The backward is grad times a map L of the image; for l2 it is linear and symmetric, for l1 locally constant."""
    grad, images = ctx.saved_tensors
    slopes = call("total_variation_loss_backward", torch.ones_like(grad), images, ctx.norm)
    to_grad = (v.to(grad.dtype) * slopes).sum((1, 2, 3))
    return to_grad, call("total_variation_loss_backward", grad, v, ctx.norm) if ctx.norm == "l2" else None, None


register_autograd("total_variation_loss", _backward, _save_forward)
register_autograd("total_variation_loss_backward", _double_backward, _save_backward)
