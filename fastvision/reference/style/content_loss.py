"""Content loss of feature maps in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def content_loss(
    features: Tensor | Sequence[Tensor],
    targets: Tensor | Sequence[Tensor],
    weights: Sequence[float] | None = None,
) -> Tensor:
    """Layers -> []: the weighted sum of their mean squared differences, in float32 or wider."""
    ours = [features] if isinstance(features, Tensor) else list(features)
    theirs = [targets] if isinstance(targets, Tensor) else list(targets)
    scales = [1.0] * len(ours) if weights is None else list(weights)
    _check(ours, theirs, scales)
    distances = [_distance(a, b) for a, b in zip(ours, theirs, strict=True)]
    weighted = [d if isinstance(w, (int, float)) and w == 1 else w * d for w, d in zip(scales, distances, strict=True)]
    return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()


def _distance(feature: Tensor, target: Tensor) -> Tensor:
    """Of no values: 0."""
    wide = torch.promote_types(torch.promote_types(feature.dtype, target.dtype), torch.float32)
    if feature.numel() == 0:
        return feature.sum(dtype=wide) + target.sum(dtype=wide)
    return F.mse_loss(feature.to(wide), target.to(wide))


def _check(features: list[Tensor], targets: list[Tensor], weights: list[float]) -> None:
    if not features:
        raise ValueError("content_loss: expected at least one layer of features, got none")
    if len(targets) != len(features):
        raise ValueError(f"content_loss: expected {len(features)} targets, one for each layer, got {len(targets)}")
    if len(weights) != len(features):
        raise ValueError(f"content_loss: expected {len(features)} weights, one for each layer, got {len(weights)}")
    for layer, (feature, target) in enumerate(zip(features, targets, strict=True)):
        if feature.shape != target.shape:
            ours, theirs = list(feature.shape), list(target.shape)
            raise ValueError(f"content_loss: expected targets[{layer}] of the features' shape {ours}, got {theirs}")
        if feature.device != target.device:
            where = f"{feature.device}, got {target.device}"
            raise ValueError(f"content_loss: expected targets[{layer}] on the features' device {where}")
