"""Boxes: overlap and the R-CNN parametrisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import once_differentiable, register_autograd, register_fake, with_reference
from fastvision.reference.boxes import SCALE_CLAMP, working_dtype


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


@with_reference(reference.boxes.box_iou)
def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """Intersection over union of every pair of boxes; 0 for two empty boxes, never NaN.

    Args:
        boxes1: ``[N, 4]``, any real dtype.
        boxes2: ``[M, 4]``; both may have the same leading batch dimensions, which plain PyTorch serves.
        fmt: ``"xyxy"``, ``"xywh"`` or ``"cxcywh"``.

    Shapes:
        ``[N, 4], [M, 4] -> [N, M]``: float64 if either input is, float32 otherwise. Differentiable once, in both.

    Raises:
        ValueError: shapes other than ``[N, 4]``, different devices, an unknown format.

    Complexity:
        ``O(N M)``.

    Reference:
        Jaccard 1912; signature of ``torchvision.ops.box_iou``.
    """
    if boxes1.dim() > 2 and boxes2.dim() > 2:
        return reference.boxes.box_iou(boxes1, boxes2, fmt)
    return torch.ops.fastvision.box_iou(_corners(boxes1, fmt), _corners(boxes2, fmt))


def _corners(boxes: Tensor, fmt: str) -> Tensor:
    """Converted in the working dtype: sums of half or integer coordinates would be rounded."""
    return boxes if fmt == "xyxy" else reference.boxes.to_corners(boxes.to(working_dtype(boxes)), fmt)


@with_reference(reference.boxes.encode_boxes)
def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Regression targets ``(dx, dy, dw, dh)`` of boxes relative to anchors, times ``weights``.

    Shapes:
        ``[N, 4], [N, 4] -> [N, 4]`` in the dtype of ``boxes`` (float32 for integer boxes). Differentiable once, in
        both. Lengths are in pixels, ``dx, dy`` in anchor lengths, ``dw, dh`` in natural logarithms.

    Raises:
        ValueError: shapes that differ or are not ``[N, 4]``, different devices, other than 4 weights.

    Complexity:
        ``O(N)``.

    Reference:
        Girshick et al. 2014, appendix C.
    """
    return torch.ops.fastvision.encode_boxes(boxes, anchors, list(weights))


@with_reference(reference.boxes.decode_boxes)
def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip_to: Sequence[float] | None = None,
    scale_clamp: float = SCALE_CLAMP,
) -> Tensor:
    """The inverse of :func:`encode_boxes`: predicted ``(dx, dy, dw, dh)`` and anchors give boxes.

    Args:
        deltas: ``[N, 4]``, or ``[N, 4 k]`` for k predictions an anchor (one per class).
        anchors: ``[N, 4]`` in pixels.
        weights: divisors of ``dx, dy, dw, dh``.
        clip_to: ``(height, width)`` of the image to clip boxes to.
        scale_clamp: upper limit of ``dw`` and ``dh`` before the exponential.

    Shapes:
        ``[N, 4 k], [N, 4] -> [N, 4 k]`` in the dtype of ``deltas``. Differentiable once, in both.

    Raises:
        ValueError: shapes that do not match, different devices, other than 4 weights, a negative ``clip_to``.

    Complexity:
        ``O(N k)``.

    Reference:
        Girshick et al. 2014, appendix C; the clamp is that of Detectron (log 1000/16).
    """
    clip = [] if clip_to is None else [float(side) for side in clip_to]
    return torch.ops.fastvision.decode_boxes(deltas, anchors, list(weights), scale_clamp, clip)


@register_fake("box_iou")
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    return boxes1.new_empty([boxes1.shape[0], boxes2.shape[0]], dtype=working_dtype(boxes1, boxes2))


@register_fake("box_iou_backward")
def _(grad: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    return _empty(boxes1), _empty(boxes2)


@register_fake("encode_boxes")
def _(boxes: Tensor, anchors: Tensor, weights: list[float]) -> Tensor:
    return _empty(boxes, boxes.dtype if boxes.is_floating_point() else torch.float32)


@register_fake("encode_boxes_backward")
def _(grad: Tensor, boxes: Tensor, anchors: Tensor, weights: list[float]) -> tuple[Tensor, Tensor]:
    return _empty(boxes), _empty(anchors)


@register_fake("decode_boxes")
def _(deltas: Tensor, anchors: Tensor, weights: list[float], scale_clamp: float, clip_to: list[float]) -> Tensor:
    return _empty(deltas)


@register_fake("decode_boxes_backward")
def _(
    grad: Tensor, deltas: Tensor, anchors: Tensor, weights: list[float], scale_clamp: float, clip_to: list[float]
) -> tuple[Tensor, Tensor]:
    return _empty(deltas), _empty(anchors)


def _empty(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Contiguous, whatever the strides of ``like``."""
    return like.new_empty(like.shape, dtype=dtype)


def _save_two(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Saves the first two inputs, both tensors; the rest are plain numbers."""
    ctx.save_for_backward(*inputs[:2])
    ctx.constants = inputs[2:]


def _backward_of(name: str) -> Any:
    def backward(ctx: Any, grad: Tensor) -> Any:
        grads = getattr(torch.ops.fastvision, f"{name}_backward")(grad, *ctx.saved_tensors, *ctx.constants)
        return *grads, *(None for _ in ctx.constants)

    return backward


for _name in ("box_iou", "encode_boxes", "decode_boxes"):
    register_autograd(_name, _backward_of(_name), _save_two)
    once_differentiable(f"{_name}_backward")
