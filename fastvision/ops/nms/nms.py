"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops.nms.class_ids import class_ids


@with_reference(reference.nms.nms)
def nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    score_threshold: float | None = None,
    metric: str = "iou",
) -> Tensor:
    """Keeps the best-scored boxes that overlap no better one by more than ``iou_threshold``.

    A box is dropped if its overlap with a kept box is strictly greater than the threshold, compared in float32
    (float64 for float64 boxes) on every device. Equal scores keep the order of their indices; a NaN score ranks last;
    a box with a NaN or infinite side suppresses nothing and is not suppressed.

    Args:
        boxes: ``[N, 4]`` as ``(x1, y1, x2, y2)`` in pixels, any real dtype.
        scores: ``[N]``, floating point.
        iou_threshold: overlap above which the lower-scored box is dropped.
        max_output: keep at most this many; the search stops there.
        score_threshold: boxes whose score is not greater are dropped first.
        metric: ``"iou"``; ``"diou"``, IoU less the squared distance of centres over the squared diagonal of the
            enclosing box (Zheng et al. 2020, eq. 7); or ``"ios"``, intersection over the smaller box.

    Shapes:
        ``[N, 4], [N] -> [K]`` int64 indices into ``boxes``, by descending score. Not differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or devices, a NaN threshold, an unknown metric.

    Complexity:
        ``O(N log N)`` to rank; then near ``O(N)`` by a grid for IoU and DIoU thresholds from 0.2, ``O(N K)`` at worst.
        Memory is linear in ``N``.

    Reference:
        Greedy suppression as in Girshick et al. 2014, section 2.2; signature of ``torchvision.ops.nms``.
    """
    return torch.ops.fastvision.nms(boxes, scores, None, iou_threshold, max_output, score_threshold, metric)


@with_reference(reference.nms.batched_nms)
def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    *,
    max_output: int | None = None,
    score_threshold: float | None = None,
    metric: str = "iou",
) -> Tensor:
    """:func:`nms` within each class: boxes of different ``idxs`` never suppress one another.

    Class ids are compared as they are and coordinates are never shifted, so negative coordinates, infinite boxes and
    huge class ids do no harm.

    Args:
        boxes: ``[N, 4]`` as ``(x1, y1, x2, y2)`` in pixels.
        scores: ``[N]``, floating point.
        idxs: ``[N]`` class (or image) of each box, any real dtype.
        iou_threshold: overlap above which the lower-scored box of the same class is dropped.
        max_output: keep at most this many, over all classes.
        score_threshold: boxes whose score is not greater are dropped first.
        metric: as for :func:`nms`.

    Shapes:
        ``[N, 4], [N], [N] -> [K]`` int64 indices into ``boxes``, by descending score. Not differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or devices, a NaN threshold, an unknown metric.

    Complexity:
        As :func:`nms`, class by class, classes over threads.

    Reference:
        Signature of ``torchvision.ops.batched_nms``.
    """
    ids = class_ids("batched_nms", idxs)
    return torch.ops.fastvision.nms(boxes, scores, ids, iou_threshold, max_output, score_threshold, metric)


@register_fake("nms")
def _(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    max_output: int | None,
    score_threshold: float | None,
    metric: str,
) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty([kept], dtype=torch.int64)
