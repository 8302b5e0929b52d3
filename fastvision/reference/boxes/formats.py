"""Formats, areas and sizes of boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is, float32 otherwise: geometry is never computed in half precision or integers."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def check_format(fmt: str) -> None:
    if fmt not in ("xyxy", "xywh", "cxcywh"):
        raise ValueError(f'expected fmt "xyxy", "xywh" or "cxcywh", got "{fmt}"')


def to_corners(boxes: Tensor, fmt: str) -> Tensor:
    """[..., 4] in a format -> (x1, y1, x2, y2)."""
    check_format(fmt)
    if fmt == "xyxy":
        return boxes
    first, size = boxes[..., :2], boxes[..., 2:]
    if fmt == "xywh":
        return torch.cat([first, first + size], dim=-1)
    return torch.cat([first - size / 2, first + size / 2], dim=-1)


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """[..., 4] -> [...]; integer boxes have integer areas."""
    if boxes.is_floating_point():
        boxes = boxes.to(working_dtype(boxes))
    elif boxes.dtype not in (torch.int32, torch.int64):
        boxes = boxes.int()
    if fmt != "xyxy":
        check_format(fmt)
        return boxes[..., 2] * boxes[..., 3]
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_convert(boxes: Tensor, in_fmt: str, out_fmt: str) -> Tensor:
    """[..., 4] in one format -> [..., 4] in another, in the dtype of the input where halves need no other."""
    corners = to_corners(boxes, in_fmt)
    if in_fmt == out_fmt:
        return boxes.clone()
    check_format(out_fmt)
    if out_fmt == "xyxy":
        return corners
    first, last = corners[..., :2], corners[..., 2:]
    return torch.cat([first if out_fmt == "xywh" else (first + last) / 2, last - first], dim=-1)


def clip_boxes_to_image(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """[..., 4], (height, width) -> [..., 4] with every corner in the image."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], dim=-1).reshape(boxes.shape)


def remove_small_boxes(boxes: Tensor, min_size: float) -> Tensor:
    """[N, 4] -> indices of the boxes with both sides at least ``min_size``."""
    return torch.where(((boxes[..., 2:] - boxes[..., :2]) >= min_size).all(dim=-1))[0]
