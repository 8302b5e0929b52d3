"""Intersection over union, its relatives, and the losses made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import call, register_fake, with_reference
from fastvision.ops.boxes._gradients import empty_like, register_gradients
from fastvision.ops.boxes.box_iou_rotated import box_iou_rotated
from fastvision.reference.boxes import working_dtype
from fastvision.reference.boxes.box_iou import loss
from fastvision.reference.boxes.box_iou import overlap as plain_overlap


@with_reference(reference.boxes.box_iou)
def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", *, elementwise: bool = False) -> Tensor:
    """Intersection over union of every pair of boxes; 0 for two empty boxes, never NaN.

    Args:
        boxes1: ``[N, 4]``, any real dtype.
        boxes2: ``[M, 4]``; leading batch dimensions, of either, broadcast and are served by plain PyTorch.
        fmt: ``"xyxy"``, ``"xywh"``, ``"cxcywh"``, or ``"cxcywhr"``, which is :func:`box_iou_rotated`.
        elementwise: the i-th box with the i-th box instead of all pairs.

    Shapes:
        ``[N, 4], [M, 4] -> [N, M]``, elementwise ``[..., 4], [..., 4] -> [...]``: float64 if either input is, float32
        otherwise. Differentiable once, in both.

    Raises:
        ValueError: other shapes, different devices, an unknown format.

    Complexity:
        ``O(N M)``.

    Reference:
        Jaccard 1912; signature of ``torchvision.ops.box_iou``.
    """
    if fmt == "cxcywhr":
        if elementwise:
            raise ValueError('box_iou: expected elementwise=False with fmt "cxcywhr"')
        return box_iou_rotated(boxes1, boxes2)
    return _overlap(_corners(boxes1, fmt), _corners(boxes2, fmt), "iou", elementwise=elementwise)


@with_reference(reference.boxes.generalized_box_iou)
def generalized_box_iou(boxes1: Tensor, boxes2: Tensor, *, elementwise: bool = False) -> Tensor:
    """IoU less the share of the enclosing box that neither box covers: from -1, far apart, to 1, the same.

    Args:
        boxes1: ``[N, 4]`` as ``(x1, y1, x2, y2)``, any real dtype.
        boxes2: ``[M, 4]``.
        elementwise: the i-th box with the i-th box instead of all pairs.

    Shapes:
        As :func:`box_iou`. Differentiable once, in both.

    Raises:
        ValueError: other shapes, different devices.

    Complexity:
        ``O(N M)``.

    Reference:
        Rezatofighi et al. 2019, algorithm 1; signature of ``torchvision.ops.generalized_box_iou``.
    """
    return _overlap(boxes1, boxes2, "generalized", elementwise=elementwise)


@with_reference(reference.boxes.distance_box_iou)
def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, *, elementwise: bool = False) -> Tensor:
    """IoU less the squared distance of centres over the squared diagonal (plus ``eps``) of the enclosing box.

    Args:
        boxes1: ``[N, 4]`` as ``(x1, y1, x2, y2)``, any real dtype.
        boxes2: ``[M, 4]``.
        eps: added to the squared diagonal, in squared pixels.
        elementwise: the i-th box with the i-th box instead of all pairs.

    Shapes:
        As :func:`box_iou`. Differentiable once, in both.

    Raises:
        ValueError: other shapes, different devices.

    Complexity:
        ``O(N M)``.

    Reference:
        Zheng et al. 2020, eq. 7; signature of ``torchvision.ops.distance_box_iou``.
    """
    return _overlap(boxes1, boxes2, "distance", eps=eps, elementwise=elementwise)


@with_reference(reference.boxes.complete_box_iou)
def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, *, elementwise: bool = False) -> Tensor:
    """:func:`distance_box_iou` less ``alpha v``, ``v`` the difference of aspect ratios, ``alpha`` its weight.

    ``alpha`` counts as a constant in the gradient, as published.

    Args:
        boxes1: ``[N, 4]`` as ``(x1, y1, x2, y2)``, any real dtype.
        boxes2: ``[M, 4]``.
        eps: added to the denominators of the penalties.
        elementwise: the i-th box with the i-th box instead of all pairs.

    Shapes:
        As :func:`box_iou`. Differentiable once, in both.

    Raises:
        ValueError: other shapes, different devices.

    Complexity:
        ``O(N M)``.

    Reference:
        Zheng et al. 2020, eq. 8 to 11; signature of ``torchvision.ops.complete_box_iou``.
    """
    return _overlap(boxes1, boxes2, "complete", eps=eps, elementwise=elementwise)


@with_reference(reference.boxes.generalized_box_iou_loss)
def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """``1 - generalized IoU`` of the i-th box with the i-th box, in one pass.

    Args:
        boxes1: ``[N, 4]`` or ``[4]`` as ``(x1, y1, x2, y2)``.
        boxes2: as ``boxes1``.
        reduction: ``"none"``, ``"mean"`` (0 of no boxes) or ``"sum"``.
        eps: added to every denominator.

    Shapes:
        ``[N, 4], [N, 4] -> [N]``, or a scalar; shapes broadcast. float64 if either input is, float32 otherwise.
        Differentiable once, in both.

    Raises:
        ValueError: other shapes, different devices, an unknown reduction.

    Complexity:
        ``O(N)``.

    Reference:
        Rezatofighi et al. 2019, algorithm 1; signature of ``torchvision.ops.generalized_box_iou_loss``.
    """
    return loss(_rows(boxes1, boxes2, "generalized", eps), reduction)


@with_reference(reference.boxes.distance_box_iou_loss)
def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """``1 - distance IoU`` of the i-th box with the i-th box, in one pass.

    Args:
        boxes1: ``[N, 4]`` or ``[4]`` as ``(x1, y1, x2, y2)``.
        boxes2: as ``boxes1``.
        reduction: ``"none"``, ``"mean"`` (0 of no boxes) or ``"sum"``.
        eps: added to every denominator.

    Shapes:
        ``[N, 4], [N, 4] -> [N]``, or a scalar; shapes broadcast. float64 if either input is, float32 otherwise.
        Differentiable once, in both.

    Raises:
        ValueError: other shapes, different devices, an unknown reduction.

    Complexity:
        ``O(N)``.

    Reference:
        Zheng et al. 2020, eq. 7; signature of ``torchvision.ops.distance_box_iou_loss``.
    """
    return loss(_rows(boxes1, boxes2, "distance", eps), reduction)


@with_reference(reference.boxes.complete_box_iou_loss)
def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """``1 - complete IoU`` of the i-th box with the i-th box, in one pass.

    Args:
        boxes1: ``[N, 4]`` or ``[4]`` as ``(x1, y1, x2, y2)``.
        boxes2: as ``boxes1``.
        reduction: ``"none"``, ``"mean"`` (0 of no boxes) or ``"sum"``.
        eps: added to every denominator.

    Shapes:
        ``[N, 4], [N, 4] -> [N]``, or a scalar; shapes broadcast. float64 if either input is, float32 otherwise.
        Differentiable once, in both.

    Raises:
        ValueError: other shapes, different devices, an unknown reduction.

    Complexity:
        ``O(N)``.

    Reference:
        Zheng et al. 2020, eq. 8 to 11; signature of ``torchvision.ops.complete_box_iou_loss``.
    """
    return loss(_rows(boxes1, boxes2, "complete", eps), reduction)


def _corners(boxes: Tensor, fmt: str) -> Tensor:
    """Converted in the working dtype: sums of half or integer coordinates would be rounded."""
    return boxes if fmt == "xyxy" else reference.boxes.to_corners(boxes.to(working_dtype(boxes)), fmt)


def _overlap(boxes1: Tensor, boxes2: Tensor, kind: str, *, eps: float = 0.0, elementwise: bool = False) -> Tensor:
    if elementwise:
        return _rows(boxes1, boxes2, kind, eps, 0.0)
    if max(boxes1.dim(), boxes2.dim()) > 2 and min(boxes1.dim(), boxes2.dim()) > 1:
        _broadcast(kind, boxes1, boxes2, 2)
        return plain_overlap(boxes1, boxes2, kind, eps=eps)
    return call("box_iou", boxes1, boxes2, kind, eps, 0.0, False)


def _rows(boxes1: Tensor, boxes2: Tensor, kind: str, eps: float, union_eps: float | None = None) -> Tensor:
    """[..., 4], [..., 4] -> [...]"""
    if boxes1.shape != boxes2.shape or boxes1.shape[-1:] != (4,):
        shape = _broadcast(kind, boxes1, boxes2, 1)
        boxes1, boxes2 = boxes1.expand(*shape, 4), boxes2.expand(*shape, 4)
    union_eps = eps if union_eps is None else union_eps
    flat = call("box_iou", boxes1.reshape(-1, 4), boxes2.reshape(-1, 4), kind, eps, union_eps, True)
    return flat.reshape(boxes1.shape[:-1])


def _broadcast(kind: str, boxes1: Tensor, boxes2: Tensor, last: int) -> torch.Size:
    """The shape in which all dimensions but the ``last`` ones meet."""
    if boxes1.shape[-1:] == boxes2.shape[-1:] == (4,):
        try:
            return torch.broadcast_shapes(boxes1.shape[:-last], boxes2.shape[:-last])  # type: ignore[no-untyped-call]
        except RuntimeError:
            pass
    raise ValueError(
        f"{kind} IoU: expected boxes1 and boxes2 of shapes [..., 4] that broadcast, got {list(boxes1.shape)} and "
        f"{list(boxes2.shape)}"
    )


@register_fake("box_iou")
def _(boxes1: Tensor, boxes2: Tensor, kind: str, eps: float, union_eps: float, elementwise: bool) -> Tensor:
    shape = [boxes1.shape[0]] if elementwise else [boxes1.shape[0], boxes2.shape[0]]
    return boxes1.new_empty(shape, dtype=working_dtype(boxes1, boxes2))


@register_fake("box_iou_backward")
def _(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: str, eps: float, union_eps: float, elementwise: bool
) -> tuple[Tensor, Tensor]:
    return empty_like(boxes1), empty_like(boxes2)


register_gradients("box_iou")
