"""Intersection over union of rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops._constant import constant
from fastvision.reference.boxes import working_dtype


@with_reference(reference.boxes.box_iou_rotated)
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, *, clockwise: bool = False) -> Tensor:
    """Intersection over union of every pair of rotated boxes, in [0, 1].

    Computed in float64 in the frame of the first box by a formula without cases, so that a box overlaps itself by 1,
    boxes far apart by 0, and shifts, turns and huge coordinates change nothing. A box whose width or height is not
    positive overlaps nothing; one that is not finite gives NaN.

    Args:
        boxes1: ``[N, 5]`` as ``(cx, cy, width, height, angle)``, pixels and degrees, any real dtype.
        boxes2: ``[M, 5]``.
        clockwise: angles turn clockwise as seen (mmcv) instead of counter-clockwise (Detectron2, torchvision).

    Shapes:
        ``[N, 5], [M, 5] -> [N, M]``: float64 if either input is, float32 otherwise. Not differentiable.

    Raises:
        ValueError: shapes other than ``[N, 5]``, different devices.

    Complexity:
        ``O(N M)`` to test the circles around the boxes; about 200 operations for each pair whose circles meet.

    Reference:
        The boxes of Ma et al. 2018 (RRPN); the area by Green's theorem over the edges of one box, clamped to the other.
    """
    return torch.ops.fastvision.box_iou_rotated(constant(boxes1), constant(boxes2), clockwise)


@register_fake("box_iou_rotated")
def _(boxes1: Tensor, boxes2: Tensor, clockwise: bool) -> Tensor:
    return boxes1.new_empty([boxes1.shape[0], boxes2.shape[0]], dtype=working_dtype(boxes1, boxes2))
