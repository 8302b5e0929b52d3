"""Formats, areas and sizes of boxes: a few elementwise operations each, so plain PyTorch serves them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference


@with_reference(reference.boxes.box_area)
def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """Areas of boxes in the format ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.

    Shapes:
        ``[..., 4] -> [...]``, in squared pixels; half boxes give float32, integer boxes integers. Differentiable.

    Raises:
        IndexError: the last dimension is shorter than 4.
        ValueError: an unknown format.

    Reference:
        ``torchvision.ops.box_area``.
    """
    return reference.boxes.box_area(boxes, fmt)


@with_reference(reference.boxes.box_convert)
def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """Boxes of one format in another: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.

    Shapes:
        ``[..., 4] -> [..., 4]``, a new tensor. Differentiable. Integer boxes stay integers unless centres need halves.

    Raises:
        ValueError: an unknown format.

    Reference:
        ``torchvision.ops.box_convert``.
    """
    return reference.boxes.box_convert(boxes, in_fmt, out_fmt)


@with_reference(reference.boxes.clip_boxes_to_image)
def clip_boxes_to_image(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Moves corners outside an image of ``size = (height, width)`` to its edge; NaN stays NaN.

    Shapes:
        ``[..., 4] -> [..., 4]``. Differentiable.

    Raises:
        ValueError: ``size`` is not two numbers.

    Reference:
        ``torchvision.ops.clip_boxes_to_image``.
    """
    return reference.boxes.clip_boxes_to_image(boxes, size)


@with_reference(reference.boxes.remove_small_boxes)
def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """Indices of the boxes whose sides are both at least ``min_size`` pixels.

    Shapes:
        ``[N, 4] -> [K]`` int64, ascending. Not differentiable.

    Raises:
        IndexError: no dimension of boxes.

    Reference:
        ``torchvision.ops.remove_small_boxes``.
    """
    return reference.boxes.remove_small_boxes(boxes, min_size)
