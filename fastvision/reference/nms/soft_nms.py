"""Soft-NMS as published: select the best, lower the others, repeat."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision.reference.boxes import working_dtype
from fastvision.reference.nms.nms import overlaps


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float = 0.3,
    *,
    sigma: float = 0.5,
    score_threshold: float = 1e-3,
    method: str = "gaussian",
    idxs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """[N, 4], [N] -> [K], [K]"""
    if method not in ("gaussian", "linear", "hard"):
        raise ValueError(f'soft_nms: expected method "gaussian", "linear" or "hard", got "{method}"')
    if not sigma > 0:
        raise ValueError(f"soft_nms: expected sigma > 0, got {sigma}")
    if not score_threshold >= 0:
        raise ValueError(f"soft_nms: expected score_threshold >= 0, got {score_threshold}")
    dtype = working_dtype(boxes, scores)
    plain, current = boxes.to(dtype), scores.to(dtype).clone()
    final = torch.full_like(current, -torch.inf)
    alive = current > score_threshold
    while alive.any():
        best = int(torch.where(alive, current, -torch.inf).argmax())
        final[best] = current[best]
        alive[best] = False
        iou = overlaps(plain[best], plain, "iou")
        if method == "gaussian":
            factor = torch.exp(-(iou**2) / sigma)
        else:
            factor = torch.where(iou > iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)
        factor = torch.where(iou.isnan(), 1.0, factor)
        met = alive if idxs is None else alive & (idxs == idxs[best])
        current = torch.where(met, current * factor, current)
        alive &= current > score_threshold
    order = torch.sort(final, descending=True, stable=True)[1]
    keep = order[final[order] != -torch.inf]
    return keep, final[keep].to(scores.dtype)
