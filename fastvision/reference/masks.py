"""Masks and keypoints in plain PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastvision.reference.boxes import working_dtype


def _torchvision(mask: Tensor, box: Tensor, out: Tensor) -> None:
    """Pastes [M, M'] into out [H, W]: a border of zeros, the box grown as much and cut to whole pixels."""
    bordered = F.pad(mask, (1, 1, 1, 1))
    size = torch.tensor([mask.shape[1], mask.shape[0]], device=box.device)
    centre, half = (box[2:] + box[:2]) * 0.5, (box[2:] - box[:2]) * 0.5
    half = half * ((size + 2).double() / size).to(box.dtype)
    (x1, y1), (x2, y2) = (centre - half).long().tolist(), (centre + half).long().tolist()
    w, h = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, out.shape[1]), min(y2 + 1, out.shape[0])
    if left >= right or top >= bottom:
        return
    resized = F.interpolate(bordered[None, None], size=(h, w), mode="bilinear", align_corners=False)[0, 0]
    out[top:bottom, left:right] = resized[top - y1 : bottom - y1, left - x1 : right - x1]


def _detectron2(mask: Tensor, box: Tensor, out: Tensor) -> None:
    """Pastes [M, M'] into out [H, W]: looked up at the centre of each pixel, zero outside."""
    if not (box[2:] > box[:2]).all():
        return
    y = torch.arange(out.shape[0], dtype=box.dtype, device=box.device) + 0.5
    x = torch.arange(out.shape[1], dtype=box.dtype, device=box.device) + 0.5
    y, x = (y - box[1]) / (box[3] - box[1]) * 2 - 1, (x - box[0]) / (box[2] - box[0]) * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
    out.copy_(F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0])


@torch.no_grad()
def paste_masks(
    masks: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    *,
    threshold: float | None = 0.5,
    rule: str = "torchvision",
) -> Tensor:
    """[N, M, M] or [N, 1, M, M], [N, 4] -> [N, H, W]"""
    if rule not in ("torchvision", "detectron2"):
        raise ValueError(f'paste_masks: expected rule "torchvision" or "detectron2", got "{rule}"')
    dtype = working_dtype(masks)
    plain = (masks[:, 0] if masks.dim() == 4 else masks).to(dtype)
    out = plain.new_zeros((len(plain), *image_size))
    for mask, box, image in zip(plain, boxes.to(dtype), out, strict=True):
        if box.isfinite().all() and (box.abs() < 2**30).all() and image.numel() > 0:
            (_torchvision if rule == "torchvision" else _detectron2)(mask, box, image)
    if threshold is None:
        return out.to(masks.dtype)
    return out > threshold if rule == "torchvision" else out >= threshold


def run_lengths(mask: Tensor) -> list[int]:
    """[H, W] -> lengths of runs of 0 and 1 in turn, column by column, beginning with 0"""
    flat = mask.T.flatten().to(torch.int8)
    edges = (flat.diff() != 0).nonzero()[:, 0] + 1
    bounds = [0, *edges.tolist(), len(flat)]
    runs = [b - a for a, b in itertools.pairwise(bounds)]
    return [0, *runs] if len(flat) and flat[0] else runs


def encode_runs(runs: list[int]) -> bytes:
    """COCO's text: differences to the last run but one, five bits a character."""
    text = []
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            group = number & 31
            number >>= 5
            more = number != -1 if group & 16 else number != 0
            text.append((group | 32 if more else group) + 48)
    return bytes(text)


def paste_masks_rle(
    masks: Tensor, boxes: Tensor, image_size: Sequence[int], *, threshold: float = 0.5, rule: str = "torchvision"
) -> list[dict[str, Any]]:
    """The pasted masks as run lengths."""
    height, width = image_size
    pasted = paste_masks(masks, boxes, image_size, threshold=threshold, rule=rule).cpu()
    return [{"size": [height, width], "counts": encode_runs(run_lengths(mask))} for mask in pasted]


def masks_to_boxes(masks: Tensor) -> Tensor:
    """[N, H, W] -> [N, 4]"""
    if masks.dim() != 3:
        raise ValueError(f"masks_to_boxes: expected masks of shape [N, H, W], got {list(masks.shape)}")
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    for mask, box in zip(masks, boxes, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        if len(y):
            box.copy_(torch.stack([x.min(), y.min(), x.max(), y.max()]))
    return boxes


def mask_iou(masks1: Tensor, masks2: Tensor) -> Tensor:
    """[N, H, W], [M, H, W] -> [N, M]"""
    if masks1.dim() != 3 or masks2.dim() != 3 or masks1.shape[1:] != masks2.shape[1:]:
        raise ValueError(
            f"mask_iou: expected masks of shapes [N, H, W] and [M, H, W], got {list(masks1.shape)} and "
            f"{list(masks2.shape)}"
        )
    first, second = (m.flatten(1) != 0 for m in (masks1, masks2))
    shared = torch.zeros(len(first), len(second), dtype=torch.float64, device=first.device)
    with torch.autocast("cuda" if first.is_cuda else "cpu", enabled=False):  # counts are exact in float32
        for a, b in zip(torch.split(first, 2**20, 1), torch.split(second, 2**20, 1), strict=True):
            shared += a.float() @ b.float().T
    union = first.sum(1)[:, None] + second.sum(1)[None] - shared
    return torch.where(union > 0, shared / union, 0.0).float()


@torch.no_grad()
def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K, M, M], [N, 4] -> [N, K, 3], [N, K]"""
    dtype = working_dtype(maps, rois)
    plain, boxes = maps.to(dtype), rois.to(dtype)
    keypoints, scores = plain.new_ones((*maps.shape[:2], 3)), plain.new_full(maps.shape[:2], torch.nan)
    for i, box in enumerate(boxes):
        keypoints[i, :, :2] = box[:2]
        side = (box[2:] - box[:2]).clamp(min=1)
        if maps.shape[1] == 0 or not box.isfinite().all() or (side > 2**20).any():
            continue
        w, h = side.ceil().long().tolist()
        resized = F.interpolate(plain[i][None], size=(h, w), mode="bicubic", align_corners=False)[0].flatten(1)
        best = resized.argmax(1)
        place = torch.stack([best % w, best // w], 1).to(dtype) + 0.5
        keypoints[i, :, :2] = place * (side / side.ceil()) + box[:2]
        scores[i] = resized.gather(1, best[:, None])[:, 0]
    return keypoints, scores


def mask_logits(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    class_weight: Tensor,
    class_bias: Tensor,
    labels: Tensor,
    *,
    sigmoid: bool = False,
) -> Tensor:
    """[R, C, H, W], [C, O, 2, 2], [O], [K, O], [K], [R] -> [R, 2H, 2W]: the three layers, then the map of each label"""
    if len(labels) and not (labels.amin() >= 0 and labels.amax() < len(class_weight)):
        raise IndexError(f"mask_logits: expected labels in [0, {len(class_weight)})")
    dtype = working_dtype(features)
    layers = (t.to(dtype) for t in (weight, bias, class_weight, class_bias))
    kernel, offset, class_kernel, class_offset = layers
    hidden = F.conv_transpose2d(features.to(dtype), kernel, offset, stride=2).relu()
    maps = F.conv2d(hidden, class_kernel.flatten(1)[:, :, None, None], class_offset)
    logits = maps[torch.arange(len(labels), device=labels.device), labels].to(features.dtype)
    return logits.sigmoid() if sigmoid else logits
