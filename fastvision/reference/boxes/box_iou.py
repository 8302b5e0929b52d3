"""Intersection over union and its relatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastvision.reference.boxes.box_iou_rotated import box_iou_rotated
from fastvision.reference.boxes.formats import box_area, to_corners, working_dtype


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy", *, elementwise: bool = False) -> Tensor:
    """[..., N, 4], [..., M, 4] -> [..., N, M], or [..., 4], [..., 4] -> [...]; 0 for a pair of empty boxes."""
    if fmt == "cxcywhr":
        if elementwise:
            raise ValueError('box_iou: expected elementwise=False with fmt "cxcywhr"')
        return box_iou_rotated(boxes1, boxes2)
    dtype = working_dtype(boxes1, boxes2)
    corners1, corners2 = to_corners(boxes1.to(dtype), fmt), to_corners(boxes2.to(dtype), fmt)
    return overlap(corners1, corners2, "iou", elementwise=elementwise)


def generalized_box_iou(boxes1: Tensor, boxes2: Tensor, *, elementwise: bool = False) -> Tensor:
    """IoU less the share of the enclosing box that neither covers."""
    return overlap(boxes1, boxes2, "generalized", elementwise=elementwise)


def distance_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, *, elementwise: bool = False) -> Tensor:
    """IoU less the squared distance of centres over the squared diagonal of the enclosing box."""
    return overlap(boxes1, boxes2, "distance", eps=eps, elementwise=elementwise)


def complete_box_iou(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-7, *, elementwise: bool = False) -> Tensor:
    """The distance form less a weighted difference of aspect ratios."""
    return overlap(boxes1, boxes2, "complete", eps=eps, elementwise=elementwise)


def generalized_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - generalized IoU of the i-th with the i-th box."""
    return loss(overlap(boxes1, boxes2, "generalized", eps=eps, union_eps=eps, elementwise=True), reduction)


def distance_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - distance IoU of the i-th with the i-th box."""
    return loss(overlap(boxes1, boxes2, "distance", eps=eps, union_eps=eps, elementwise=True), reduction)


def complete_box_iou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """1 - complete IoU of the i-th with the i-th box."""
    return loss(overlap(boxes1, boxes2, "complete", eps=eps, union_eps=eps, elementwise=True), reduction)


def loss(value: Tensor, reduction: str) -> Tensor:
    """1 - value, reduced; the mean of nothing is 0. In the working dtype: a sum overflows a half type."""
    one = 1 - value
    if reduction == "mean":
        one = one.mean() if one.numel() else one.sum()
    elif reduction == "sum":
        one = one.sum()
    elif reduction != "none":
        raise ValueError(f'expected reduction "none", "mean" or "sum", got "{reduction}"')
    return one


def overlap(
    boxes1: Tensor, boxes2: Tensor, kind: str, *, eps: float = 0.0, union_eps: float = 0.0, elementwise: bool = False
) -> Tensor:
    """The overlap of corner boxes, all pairs or row by row."""
    dtype = working_dtype(boxes1, boxes2)
    a, b = boxes1.to(dtype), boxes2.to(dtype)
    if not elementwise:
        a, b = a[..., :, None, :], b[..., None, :, :]
    sides = torch.relu(torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]))
    intersection = sides[..., 0] * sides[..., 1]
    union = box_area(a) + box_area(b) - intersection
    iou = _ratio(intersection, union, union_eps)
    if kind == "iou":
        return iou
    hull = torch.relu(torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2]))
    if kind == "generalized":
        area = hull[..., 0] * hull[..., 1]
        return iou - _ratio(area - union, area, eps)
    centres = (a[..., :2] + a[..., 2:]) / 2 - (b[..., :2] + b[..., 2:]) / 2
    value = iou - _ratio((centres**2).sum(-1), (hull**2).sum(-1), eps)
    if kind == "distance":
        return value
    v = 4 / math.pi**2 * (_aspect(a) - _aspect(b)) ** 2
    with torch.no_grad():
        alpha = _ratio(v, 1 - iou + v, eps)
    return value - alpha * v


def _ratio(part: Tensor, whole: Tensor, eps: float) -> Tensor:
    """part / (whole + eps), and 0 of nothing."""
    return torch.where(whole == 0, 0.0, part / (whole + eps).where(whole != 0, 1.0))


def _aspect(boxes: Tensor) -> Tensor:
    """Angle of the diagonal; 0 for a box of no size."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    nothing = (width == 0) & (height == 0)
    return torch.where(nothing, 0.0, torch.atan(width / height.where(~nothing, 1.0)))
