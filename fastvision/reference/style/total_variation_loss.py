"""Total variation of images in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """[N] -> [], or [N] as it is. The mean of no images is 0."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'total_variation_loss: expected reduction "mean", "sum" or "none", got {reduction!r}')
    if reduction == "none":
        return losses
    return losses.sum() / max(losses.shape[0], 1) if reduction == "mean" else losses.sum()


def total_variation_loss(images: Tensor, *, norm: str = "l2", reduction: str = "mean") -> Tensor:
    """[N, C, H, W] -> [] or [N]: differences to the right neighbour and to the one below."""
    if norm not in ("l1", "l2"):
        raise ValueError(f'total_variation_loss: expected norm "l1" or "l2", got "{norm}"')
    x = images if images.dtype == torch.float64 else images.float()
    terms = [(x[..., 1:] - x[..., :-1]), (x[..., 1:, :] - x[..., :-1, :])]
    losses = sum(((d.abs() if norm == "l1" else d.square()).flatten(1).sum(1) for d in terms), x.new_zeros(len(x)))
    return reduced(losses, reduction)
