"""Non-maximum suppression of rotated boxes by the matrix of their overlaps."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision.reference.boxes import box_iou_rotated, working_dtype
from fastvision.reference.nms.nms import rank


def nms_rotated(
    boxes: Tensor, scores: Tensor, iou_threshold: float, *, idxs: Tensor | None = None, clockwise: bool = False
) -> Tensor:
    """[N, 5], [N] -> [K]"""
    order = rank(scores.to(working_dtype(scores)))
    ranked = boxes.to(working_dtype(boxes)).double()[order]
    suppresses = box_iou_rotated(ranked, ranked, clockwise=clockwise) > iou_threshold
    if idxs is not None:
        suppresses &= idxs[order][:, None] == idxs[order][None]
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~suppresses[i, i + 1 :]
    return order[alive]
