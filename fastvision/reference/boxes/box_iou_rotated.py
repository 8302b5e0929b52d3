"""Intersection over union of rotated boxes.

In the frame of the first box, where it is the rectangle [-w, w] x [-h, h], the shared area is the sum over the edges of
the second of the integral of (clamp(y, -h, h) + h) dx, x limited to [-w, w] (Green's theorem).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision.reference.boxes.formats import working_dtype


@torch.no_grad()
def box_iou_rotated(boxes1: Tensor, boxes2: Tensor, *, clockwise: bool = False) -> Tensor:
    """[N, 5], [M, 5] -> [N, M]"""
    dtype = working_dtype(boxes1, boxes2)
    a, b = boxes1.double()[:, None], boxes2.double()[None]
    size1, size2 = (torch.where((t[..., 2:4] > 0).all(-1), t[..., 2:4].prod(-1), 0.0) for t in (a, b))
    least = torch.minimum(size1, size2)
    direction = -1.0 if clockwise else 1.0
    shared = _shared_area(a, b, direction).maximum(1e-30 * least).minimum(least)
    shared = torch.where(_separated(a, b, direction), 0.0, shared)
    union = size1 + size2 - shared
    iou = torch.where(union == 0, 0.0, shared / union.where(union != 0, 1.0))
    finite = a.isfinite().all(-1) & b.isfinite().all(-1)
    return torch.where(finite, iou, torch.nan).to(dtype)


def _shared_area(a: Tensor, b: Tensor, direction: float) -> Tensor:
    """[..., 5], [..., 5] -> [...]"""
    angle, turn = direction * torch.deg2rad(a[..., 4]), direction * torch.deg2rad(b[..., 4] - a[..., 4])
    dx, dy = b[..., 0] - a[..., 0], b[..., 1] - a[..., 1]
    x, y = dx * angle.cos() - dy * angle.sin(), dx * angle.sin() + dy * angle.cos()
    ux, uy = b[..., 2] / 2 * turn.cos(), -b[..., 2] / 2 * turn.sin()
    vx, vy = b[..., 3] / 2 * turn.sin(), b[..., 3] / 2 * turn.cos()
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    corners = [(x + i * ux + j * vx, y + i * uy + j * vy) for i, j in signs]
    w, h = a[..., 2] / 2, a[..., 3] / 2
    edges = zip(corners, corners[1:] + corners[:1], strict=True)
    return torch.stack([_below_edge(p, q, w, h) for p, q in edges]).sum(0).abs()


def _separated(a: Tensor, b: Tensor, direction: float) -> Tensor:
    """Whether a side of either box has all of the other beyond it or, but for rounding, on it."""
    dx, dy = b[..., 0] - a[..., 0], b[..., 1] - a[..., 1]
    turn = torch.deg2rad(b[..., 4] - a[..., 4])
    depths = []
    for one, other in ((a, b), (b, a)):
        angle = direction * torch.deg2rad(one[..., 4])
        x, y = dx * angle.cos() - dy * angle.sin(), dx * angle.sin() + dy * angle.cos()
        w, h = other[..., 2] / 2, other[..., 3] / 2
        depths.append(one[..., 2] / 2 + w * turn.cos().abs() + h * turn.sin().abs() - x.abs())
        depths.append(one[..., 3] / 2 + w * turn.sin().abs() + h * turn.cos().abs() - y.abs())
    size = a[..., 2:4].norm(dim=-1) / 2 + b[..., 2:4].norm(dim=-1) / 2
    separated: Tensor = torch.stack(depths).amin(0) <= 16 * torch.finfo(torch.float64).eps * size
    return separated


def _below_edge(p: tuple[Tensor, Tensor], q: tuple[Tensor, Tensor], w: Tensor, h: Tensor) -> Tensor:
    """The integral along the edge from p to q."""
    (px, py), (qx, qy) = p, q
    xa, xb = _clamp(px, w), _clamp(qx, w)
    level = qx == px
    slope = torch.where(level, 0.0, (qy - py) / torch.where(level, 1.0, qx - px))
    ya, yb = py + (xa - px) * slope, qy + (xb - qx) * slope
    dy = torch.where(yb == ya, 1.0, yb - ya)
    crossings = torch.stack([(-h - ya) / dy, (h - ya) / dy]).clamp(0, 1)
    first, last = crossings.min(0)[0], crossings.max(0)[0]
    at = [_clamp(ya, h), _clamp(ya + first * (yb - ya), h), _clamp(ya + last * (yb - ya), h), _clamp(yb, h)]
    mean = first * (at[0] + at[1]) + (last - first) * (at[1] + at[2]) + (1 - last) * (at[2] + at[3])
    return (xb - xa) * (h + mean / 2)


def _clamp(value: Tensor, limit: Tensor) -> Tensor:
    return torch.maximum(-limit, torch.minimum(value, limit))
