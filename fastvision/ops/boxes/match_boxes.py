"""Matching of anchors to ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference


@with_reference(reference.boxes.match_boxes)
def match_boxes(
    gt_boxes: Tensor,
    anchors: Tensor,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
) -> Tensor:
    """The ground truth that each anchor overlaps most, if it does so enough.

    What torchvision's ``Matcher`` makes of ``box_iou(gt_boxes, anchors)``, without that matrix. Of equal overlaps the
    first ground truth wins. Where torchvision raises, without ground truth or anchors, everything is background; the
    overlap of empty boxes is 0, not NaN, and an overlap that is NaN matches nothing.

    Args:
        gt_boxes: ``[G, 4]`` as ``(x1, y1, x2, y2)``, any real dtype.
        anchors: ``[A, 4]``.
        high_threshold: IoU from which an anchor is matched.
        low_threshold: IoU below which an anchor is background, -1; between the two it is -2.
        allow_low_quality_matches: anchors that reach the largest overlap of some ground truth, ties included, are
            matched whatever the thresholds say, each to the ground truth it overlaps most itself. A ground truth that
            meets no anchor has a largest overlap of 0, which every anchor it does not meet reaches.

    Shapes:
        ``[G, 4], [A, 4] -> [A]`` int64 in ``[-2, G)``. Not differentiable.

    Raises:
        ValueError: shapes other than ``[N, 4]``, different devices, ``low_threshold > high_threshold``.

    Complexity:
        ``O(G A)`` overlaps at most, a block of neighbouring anchors meeting only the ground truths near it. Memory
        ``O(A)``, with the low-quality rule ``O(A + G A / 256)`` on the CPU.

    Reference:
        Ren et al. 2015, section 3.1.2; ``torchvision.models.detection._utils.Matcher``.
    """
    return torch.ops.fastvision.match_boxes(gt_boxes, anchors, high_threshold, low_threshold, allow_low_quality_matches)


@register_fake("match_boxes")
def _(
    gt_boxes: Tensor, anchors: Tensor, high_threshold: float, low_threshold: float, allow_low_quality_matches: bool
) -> Tensor:
    return anchors.new_empty([anchors.shape[0]], dtype=torch.int64)
