"""The R-CNN box parametrisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.boxes.formats import working_dtype

SCALE_CLAMP = math.log(1000.0 / 16)


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
