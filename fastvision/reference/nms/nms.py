"""Non-maximum suppression in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision.reference.boxes import box_area, working_dtype


def rank(scores: Tensor) -> Tensor:
    """Indices by descending score, equal scores by index, NaN last."""
    order = torch.sort(
        scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), descending=True, stable=True
    )[1]
    return order[torch.sort(scores[order].isnan().to(torch.uint8), stable=True)[1]]


def overlaps(box: Tensor, boxes: Tensor, metric: str) -> Tensor:
    """[4], [N, 4] -> [N]; NaN where nothing can be said, which is above no threshold."""
    sides = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(min=0)
    intersection = sides[:, 0] * sides[:, 1]
    if metric == "ios":
        return intersection / torch.minimum(box_area(box), box_area(boxes))
    union = box_area(box) + box_area(boxes) - intersection
    iou = torch.where((intersection == 0) & (union == 0), 0.0, intersection / union)
    if metric == "iou":
        return iou
    centres = (box[:2] + box[2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    enclosing = torch.maximum(box[2:], boxes[:, 2:]) - torch.minimum(box[:2], boxes[:, :2])
    return iou - (centres**2).sum(1) / (enclosing**2).sum(1)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    score_threshold: float | None = None,
    metric: str = "iou",
) -> Tensor:
    """Greedy suppression within each class, one kept box at a time."""
    if metric not in ("iou", "diou", "ios"):
        raise ValueError(f'nms: expected metric "iou", "diou" or "ios", got "{metric}"')
    boxes = boxes.to(working_dtype(boxes))
    scores = scores.to(working_dtype(scores))
    order = rank(scores)
    if score_threshold is not None:
        order = order[scores[order] > score_threshold]
    boxes = boxes[order]
    classes = None if idxs is None else idxs[order]
    alive = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    keep: list[int] = []
    for i in range(len(order)):
        if max_output is not None and len(keep) >= max_output:
            break
        if not alive[i]:
            continue
        keep.append(i)
        suppressed = overlaps(boxes[i], boxes, metric) > iou_threshold
        alive &= ~suppressed if classes is None else ~(suppressed & (classes == classes[i]))
    return order[torch.tensor(keep, dtype=torch.int64, device=boxes.device)]


def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    score_threshold: float | None = None,
    metric: str = "iou",
) -> Tensor:
    """Greedy suppression over all boxes."""
    return batched_nms(
        boxes, scores, None, iou_threshold, max_output=max_output, score_threshold=score_threshold, metric=metric
    )
