"""Non-maximum suppression of a batch, set by set."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision.reference.nms.nms import batched_nms


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_output: int,
    *,
    idxs: Tensor | None = None,
    score_threshold: float | None = None,
    metric: str = "iou",
) -> tuple[Tensor, Tensor]:
    """[B, N, 4], [B, N] -> [B, max_output], [B]"""
    sets = len(boxes)
    keep = torch.full((sets, max_output), -1, dtype=torch.int64, device=boxes.device)
    count = torch.zeros(sets, dtype=torch.int64, device=boxes.device)
    for b in range(sets):
        kept = batched_nms(
            boxes[b],
            scores[b],
            None if idxs is None else idxs[b],
            iou_threshold,
            max_output=max_output,
            score_threshold=score_threshold,
            metric=metric,
        )
        keep[b, : len(kept)] = kept
        count[b] = len(kept)
    return keep, count
