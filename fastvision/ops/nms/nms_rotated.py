"""Non-maximum suppression of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops.nms.class_ids import class_ids


@with_reference(reference.nms.nms_rotated)
def nms_rotated(
    boxes: Tensor, scores: Tensor, iou_threshold: float, *, idxs: Tensor | None = None, clockwise: bool = False
) -> Tensor:
    """Keeps the best-scored rotated boxes that overlap no better one by more than ``iou_threshold``.

    Overlaps are those of :func:`box_iou_rotated`, compared in float64. Equal scores keep the order of their indices; a
    NaN score ranks last; a box that is not finite suppresses nothing and is not suppressed.

    Args:
        boxes: ``[N, 5]`` as ``(cx, cy, width, height, angle)``, pixels and degrees, any real dtype.
        scores: ``[N]``, floating point.
        iou_threshold: overlap above which the lower-scored box is dropped.
        idxs: ``[N]`` class of each box, any real dtype; boxes of different classes never suppress one another.
        clockwise: angles turn clockwise as seen (mmcv) instead of counter-clockwise (Detectron2, torchvision).

    Shapes:
        ``[N, 5], [N] -> [K]`` int64 indices into ``boxes``, by descending score. Not differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or devices, a NaN threshold.

    Complexity:
        ``O(N log N)`` to rank; then near ``O(N)`` by a grid for boxes of about the same size, ``O(N K)`` at worst.

    Reference:
        Girshick et al. 2014, section 2.2, on the boxes of Ma et al. 2018 (RRPN).
    """
    ids = class_ids("nms_rotated", idxs)
    return torch.ops.fastvision.nms_rotated(boxes, scores, ids, iou_threshold, clockwise)


@register_fake("nms_rotated")
def _(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float, clockwise: bool) -> Tensor:
    return boxes.new_empty([torch.library.get_ctx().new_dynamic_size()], dtype=torch.int64)
