"""Boxes in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SCALE_CLAMP = math.log(1000.0 / 16)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any tensor is, float32 otherwise: geometry is never computed in half precision or integers."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def to_corners(boxes: Tensor, fmt: str) -> Tensor:
    """[..., 4] in a format -> (x1, y1, x2, y2)."""
    if fmt == "xyxy":
        return boxes
    first, size = boxes[..., :2], boxes[..., 2:]
    if fmt == "xywh":
        return torch.cat([first, first + size], dim=-1)
    if fmt == "cxcywh":
        return torch.cat([first - size / 2, first + size / 2], dim=-1)
    raise ValueError(f'expected fmt "xyxy", "xywh" or "cxcywh", got "{fmt}"')


def box_area(boxes: Tensor, fmt: str = "xyxy") -> Tensor:
    """[..., 4] -> [...]; integer boxes have integer areas."""
    if boxes.is_floating_point():
        boxes = boxes.to(working_dtype(boxes))
    elif boxes.dtype not in (torch.int32, torch.int64):
        boxes = boxes.int()
    if fmt != "xyxy":
        to_corners(boxes[..., :0, :], fmt)  # an unknown format raises
        return boxes[..., 2] * boxes[..., 3]
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """[..., N, 4], [..., M, 4] -> [..., N, M]; 0 for a pair of empty boxes."""
    dtype = working_dtype(boxes1, boxes2)
    a = to_corners(boxes1.to(dtype), fmt)[..., :, None, :]
    b = to_corners(boxes2.to(dtype), fmt)[..., None, :, :]
    sides = torch.relu(torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]))
    intersection = sides[..., 0] * sides[..., 1]
    union = box_area(a) + box_area(b) - intersection
    return torch.where((intersection == 0) & (union == 0), 0.0, intersection / union.where(union != 0, 1.0))


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """[N, 4], [N, 4] -> [N, 4] of (dx, dy, dw, dh)."""
    dtype = working_dtype(boxes, anchors)
    b, a = boxes.to(dtype), anchors.to(dtype)
    size, anchor_size = b[:, 2:] - b[:, :2], a[:, 2:] - a[:, :2]
    shift = (b[:, :2] + 0.5 * size) - (a[:, :2] + 0.5 * anchor_size)
    w = torch.tensor(weights, dtype=dtype, device=boxes.device)
    deltas = torch.cat([shift / anchor_size, torch.log(size / anchor_size)], dim=1) * w
    return deltas.to(boxes.dtype if boxes.is_floating_point() else dtype)


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip_to: Sequence[float] | None = None,
    scale_clamp: float = SCALE_CLAMP,
) -> Tensor:
    """[N, 4 k], [N, 4] -> [N, 4 k]."""
    dtype = working_dtype(deltas, anchors)
    w = torch.tensor(weights, dtype=dtype, device=deltas.device)
    codes = deltas.to(dtype).reshape(len(deltas), deltas.shape[1] // 4, 4) / w
    a = anchors.to(dtype)[:, None]
    anchor_size = a[..., 2:] - a[..., :2]
    centre = codes[..., :2] * anchor_size + (a[..., :2] + 0.5 * anchor_size)
    half = 0.5 * (torch.exp(codes[..., 2:].clamp(max=scale_clamp)) * anchor_size)
    low, high = centre - half, centre + half
    if clip_to is not None:
        limit = torch.tensor([clip_to[1], clip_to[0]], dtype=dtype, device=deltas.device)
        zero = torch.zeros_like(limit)
        low, high = torch.clamp(low, zero, limit), torch.clamp(high, zero, limit)
    return torch.cat([low, high], dim=-1).reshape(deltas.shape).to(deltas.dtype)
