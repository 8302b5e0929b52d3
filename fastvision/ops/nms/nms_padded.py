"""Non-maximum suppression of a batch, with an output whose size does not depend on the data."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops.nms.class_ids import class_ids


@with_reference(reference.nms.nms_padded)
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
    """:func:`nms` (or, with ``idxs``, :func:`batched_nms`) of each of ``B`` sets of boxes in one call.

    The output's shape depends on the arguments' shapes alone and nothing is read back from the device, so the op runs
    under ``torch.compile(fullgraph=True)`` without dynamic shapes and within a CUDA graph. Rows of fewer than ``N``
    boxes are padded with scores that ``score_threshold`` excludes.

    Args:
        boxes: ``[B, N, 4]`` as ``(x1, y1, x2, y2)`` in pixels, any real dtype.
        scores: ``[B, N]``, floating point.
        iou_threshold: overlap above which the lower-scored box of the same set (and class) is dropped.
        max_output: keep at most this many of each set.
        idxs: ``[B, N]`` class of each box, any real dtype; boxes of different classes never suppress one another.
        score_threshold: boxes whose score is not greater are dropped first.
        metric: as for :func:`nms`.

    Shapes:
        ``[B, N, 4], [B, N] -> [B, max_output], [B]``: int64 indices into the boxes of the set by descending score,
        -1 after the last, and how many there are. Not differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or devices, a negative ``max_output``, a NaN threshold, an unknown metric.

    Complexity:
        As :func:`nms` for each set, sets over threads.

    Reference:
        Girshick et al. 2014, section 2.2.
    """
    ids = class_ids("nms_padded", idxs)
    keep, count = torch.ops.fastvision.nms_padded(
        boxes, scores, ids, iou_threshold, max_output, score_threshold, metric
    )
    return keep, count


@register_fake("nms_padded")
def _(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    max_output: int,
    score_threshold: float | None,
    metric: str,
) -> tuple[Tensor, Tensor]:
    sets = boxes.shape[0]
    return boxes.new_empty([sets, max_output], dtype=torch.int64), boxes.new_empty([sets], dtype=torch.int64)
