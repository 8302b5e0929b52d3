"""The second derivative of instance_norm, in torch's own ops, so that it can be differentiated further.

Of a plane x of n pixels, < > its means, and r = (var + eps)^(-1/2), h = (x - <x>) r:  dh = A dx, with the symmetric
A u = r (u - <u> - h <h u>). The backward gives, with g' the gradient through the activation,

    to x  w A g',   to w  n <g' h>,   to b  n <g'>,

and this module their derivatives by grad, x and w, for gradients v, p and q of the three.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def instance_norm_double_backward(
    grads: Sequence[Tensor],
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    style: Tensor | None,
    eps: float,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Derivatives by grad and input [N, C, H, W] and by weight."""
    wide = torch.promote_types(input.dtype, torch.float32)
    x, v, flowing = input.to(wide), grads[0].to(wide), grad.to(wide)
    pixels = x.shape[2] * x.shape[3]
    exact = input.double()  # a plane far from zero loses its deviations to a mean in float32
    deviation = (exact - mean(exact)).to(wide)
    r = (mean(deviation * deviation) + eps).rsqrt()
    h = deviation * r

    def project(u: Tensor) -> Tensor:
        return r * (u - mean(u) - h * mean(h * u))

    w = of_images(weight, style, x, 1.0)
    p = of_images(None if weight is None else grads[1], style, x, 0.0)
    q = of_images(None if bias is None else grads[2], style, x, 0.0)
    z = (h * w + of_images(bias, style, x, 0.0)).detach()
    if slope != 1:
        flowing = torch.where(z <= 0, slope * flowing, flowing)
    crossed = mean(v * project(flowing))
    to_grad = w * project(v) + p * h + q
    if slope != 1:
        to_grad = torch.where(z <= 0, slope * to_grad, to_grad)
    bent = v * mean(flowing * h) + flowing * mean(v * h)
    to_input = project(p * flowing - w * r * bent) - w * r * h * crossed
    to_weight = None if weight is None else to_rows(crossed.flatten(1) * pixels, weight, style)
    return to_grad.to(grad.dtype), to_input.to(input.dtype), to_weight


def mean(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C, 1, 1]; of no pixels 0."""
    return x.sum((2, 3), keepdim=True) / max(x.shape[2] * x.shape[3], 1)


def of_images(rows: Tensor | None, style: Tensor | None, like: Tensor, default: float) -> Tensor:
    """[C], or the rows [S, C] that the images [N] name -> [N or 1, C, 1, 1]; 0 where there is no such row."""
    if rows is None:
        values = like.new_full((1, 1), default)
    elif style is None:
        values = rows.to(like.dtype)[None]
    else:
        known = (style >= 0) & (style < rows.shape[0])
        values = torch.where(known[:, None], rows.to(like.dtype)[torch.where(known, style, 0)], 0)
    return values[:, :, None, None]


def to_rows(values: Tensor, rows: Tensor, style: Tensor | None) -> Tensor:
    """Sums [N, C] over images into the shape of ``rows``, in a fixed order."""
    if style is not None:
        chosen = style == torch.arange(rows.shape[0], device=style.device)[:, None]  # [S, N]
        values = torch.where(chosen[:, :, None], values, 0).sum(1)
    else:
        values = values.sum(0)
    return values.to(rows.dtype)
