"""Matching of anchors to ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision.reference.boxes.box_iou import box_iou

BACKGROUND, BETWEEN = -1, -2


def match_boxes(
    gt_boxes: Tensor,
    anchors: Tensor,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
) -> Tensor:
    """[G, 4], [A, 4] -> [A] index of a ground truth, -1 or -2."""
    if low_threshold > high_threshold:
        raise ValueError(
            f"match_boxes: expected low_threshold <= high_threshold, got {low_threshold} and {high_threshold}"
        )
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return anchors.new_full([len(anchors)], BACKGROUND, dtype=torch.int64)
    overlaps = box_iou(gt_boxes, anchors).nan_to_num(nan=-1.0)
    best, nearest = overlaps.max(dim=0)
    best = best.clamp(min=0)
    matches = nearest.where(best >= high_threshold, torch.full_like(nearest, BETWEEN))
    matches[best < low_threshold] = BACKGROUND
    if allow_low_quality_matches:
        reached = (overlaps == overlaps.max(dim=1, keepdim=True)[0].clamp(min=0)).any(dim=0)
        matches[reached] = nearest[reached]
    return matches
