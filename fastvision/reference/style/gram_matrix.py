"""Gram matrices and the style loss in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Normalize = Literal["chw", "hw", "none"]


def gram_divisor(op: str, features: Tensor, normalize: str) -> int:
    """What the sums over pixels are divided by; features [B, C, H, W]."""
    shape = features.shape
    if len(shape) != 4:
        raise ValueError(f"{op}: expected features of shape [B, C, H, W] or [C, H, W], got {list(shape)}")
    if normalize == "chw":
        return shape[1] * shape[2] * shape[3]
    if normalize == "hw":
        return shape[2] * shape[3]
    if normalize == "none":
        return 1
    raise ValueError(f'{op}: expected normalize "chw", "hw" or "none", got {normalize!r}')


def guided(op: str, features: Tensor, weight_map: Tensor, normalize: str) -> Tensor:
    """Features times the map, in float32 at least; scaled so that ones change nothing, for "none" not scaled."""
    if weight_map.shape[-2:] != features.shape[-2:] or weight_map.dim() not in (2, 3):
        raise ValueError(
            f"{op}: expected a weight_map of shape {list(features.shape[-2:])}, or {len(features)} of them, "
            f"got {list(weight_map.shape)}"
        )
    wide = torch.promote_types(features.dtype, torch.float32)
    weights = weight_map.to(wide)[(None,) * (3 - weight_map.dim())][:, None]  # [1 or B, 1, H, W]
    if normalize != "none":
        largest = weights.abs().amax((2, 3), keepdim=True)  # neither tiny maps nor large ones leave the range
        weights = weights / torch.where(largest > 0, largest, 1)
        energy = weights.square().mean((2, 3), keepdim=True)
        weights = weights / torch.where(energy > 0, energy, 1).sqrt()
    return features.to(wide) * weights


def gram_matrix(features: Tensor, normalize: Normalize = "chw", *, weight_map: Tensor | None = None) -> Tensor:
    """[B, C, H, W] -> [B, C, C]; half types are multiplied and scaled in float32."""
    if features.dim() == 3:
        return gram_matrix(features[None], normalize, weight_map=weight_map)[0]
    divisor, dtype = gram_divisor("gram_matrix", features, normalize), features.dtype
    if weight_map is not None:
        features = guided("gram_matrix", features, weight_map, normalize)
    rows = features.flatten(2).to(torch.promote_types(features.dtype, torch.float32))
    return (torch.einsum("bip,bjp->bij", rows, rows) / max(divisor, 1)).to(dtype)


def layers_of(
    op: str, features: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float] | None
) -> list[float]:
    """Weights, one a layer, once the lists are seen to be equally long."""
    weights = [1.0] * len(features) if weights is None else [float(w) for w in weights]
    if not features or len(targets) != len(features) or len(weights) != len(features):
        raise ValueError(
            f"{op}: expected as many targets and weights as features, and at least one, got {len(features)} features, "
            f"{len(targets)} targets and {len(weights)} weights"
        )
    return weights


def style_loss(
    features: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    normalize: Normalize = "chw",
    weight_maps: Sequence[Tensor] | None = None,
) -> Tensor:
    """Layers x [B, C, H, W], layers x [C, C] or [B, C, C] -> []"""
    weights = layers_of("style_loss", features, targets, weights)
    maps = [None] * len(features) if weight_maps is None else list(weight_maps)
    wide = torch.float64 if any(f.dtype == torch.float64 for f in features) else torch.float32
    loss = features[0].new_zeros((), dtype=wide)
    for feature, target, weight, weight_map in zip(features, targets, weights, maps, strict=True):
        if weight_map is not None:
            feature = guided("style_loss", feature, weight_map, normalize)
        difference = gram_matrix(feature.to(wide), normalize) - target.to(wide)
        loss = loss + weight * difference.square().sum() / max(len(feature), 1)
    return loss
