"""Soft non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops._constant import constant
from fastvision.ops.nms.class_ids import class_ids


@with_reference(reference.nms.soft_nms)
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
    """Lowers the scores of boxes that overlap better ones, instead of dropping them.

    The best-scored box is selected, every other one's score is multiplied by a factor that falls with their overlap,
    and so on until no score is above ``score_threshold``. Of equal scores the lower index is selected first. Boxes and
    scores that are NaN neither lower a score nor are lowered; a NaN score is dropped.

    Args:
        boxes: ``[N, 4]`` as ``(x1, y1, x2, y2)`` in pixels, any real dtype.
        scores: ``[N]``, floating point.
        iou_threshold: for ``"linear"`` and ``"hard"``: overlaps above it count.
        sigma: for ``"gaussian"``: the factor is ``exp(-iou^2 / sigma)``.
        score_threshold: boxes whose score, lowered or not, is not greater are dropped; not negative.
        method: ``"gaussian"``; ``"linear"``, the factor is ``1 - iou``; or ``"hard"``, it is 0.
        idxs: ``[N]`` class of each box, any real dtype; boxes of different classes do not meet.

    Shapes:
        ``[N, 4], [N] -> [K], [K]``: int64 indices into ``boxes`` by descending lowered score, and these scores in the
        dtype of ``scores``. Not differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an unknown method, ``sigma`` not positive, ``score_threshold``
            negative.

    Complexity:
        On the CPU each selection looks at one number for every 64 boxes, and at the boxes near the selected one; on
        CUDA, one block of threads a class, at every box of the class.

    Reference:
        Bodla et al. 2017, section 3, equations 1 to 3.
    """
    ids = class_ids("soft_nms", idxs)
    keep, rescored = torch.ops.fastvision.soft_nms(
        constant(boxes), constant(scores), ids, iou_threshold, sigma, score_threshold, method
    )
    return keep, rescored


@register_fake("soft_nms")
def _(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor | None,
    iou_threshold: float,
    sigma: float,
    score_threshold: float,
    method: str,
) -> tuple[Tensor, Tensor]:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty([kept], dtype=torch.int64), scores.new_empty([kept])
