"""Two-stage and one-stage detectors with anchors: flatten, decode all boxes, filter, rank, suppress."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.boxes import decode_boxes, working_dtype
from fastvision.reference.nms import batched_nms, rank
from fastvision.reference.proposals.checks import check_default_boxes, check_pyramid

Detections = list[dict[str, Tensor]] | tuple[Tensor, Tensor, Tensor, Tensor]


def flatten(maps: Sequence[Tensor], numbers: int) -> list[Tensor]:
    """[N, A numbers, H, W] of each level -> [N, H W A, numbers]"""
    levels = [torch.unflatten(m.to(working_dtype(m)), 1, (-1, numbers)) for m in maps]
    return [m.permute(0, 3, 4, 1, 2).flatten(1, 3) for m in levels]


def anchors_of(cell_anchors: Tensor, stride: Sequence[int], height: int, width: int) -> Tensor:
    """[A, 4] -> [H W A, 4]"""
    y = torch.arange(height, device=cell_anchors.device) * stride[0]
    x = torch.arange(width, device=cell_anchors.device) * stride[1]
    y, x = torch.meshgrid(y, x, indexing="ij")
    return (torch.stack([x, y, x, y], -1).reshape(-1, 1, 4) + cell_anchors).reshape(-1, 4)


def top(scores: Tensor, k: int) -> Tensor:
    """Indices of the best k that are numbers, equal ones by index."""
    order = rank(scores)
    return order[~scores[order].isnan()][:k]


def pad(images: list[tuple[Tensor, Tensor, Tensor]], size: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of each image -> [N, size, ...], zeros after the last, and how many there are."""
    shape = (len(images), size)
    boxes, scores, labels = like.new_zeros(*shape, 4), like.new_zeros(shape), like.new_zeros(shape, dtype=torch.int64)
    for i, image in enumerate(images):
        for out, rows in zip((boxes, scores, labels), image, strict=True):
            out[i, : len(rows)] = rows
    return boxes, scores, labels, torch.tensor([len(b) for b, _, _ in images], dtype=torch.int64, device=like.device)


def detections(images: list[tuple[Tensor, Tensor, Tensor]], size: int, padded: bool, like: Tensor) -> Detections:
    if padded:
        return pad(images, size, like)
    return [{"boxes": b, "scores": s, "labels": label} for b, s, label in images]


@torch.no_grad()
def rpn_proposals(
    objectness: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Sequence[Tensor],
    strides: Sequence[Sequence[int]],
    image_sizes: Sequence[Sequence[int]],
    *,
    pre_nms_top_n: int = 1000,
    post_nms_top_n: int = 1000,
    nms_threshold: float = 0.7,
    score_threshold: float = 0.0,
    min_size: float = 1e-3,
    padded: bool = False,
) -> tuple[list[Tensor], list[Tensor]] | tuple[Tensor, Tensor, Tensor]:
    check_pyramid("rpn_proposals", objectness, deltas, cell_anchors, strides, image_sizes, 1)
    logits, codes = flatten(objectness, 1), flatten(deltas, 4)
    images = []
    for i, size in enumerate(image_sizes):
        boxes, scores, levels = [], [], []
        for k, level in enumerate(objectness):
            best = top(logits[k][i, :, 0], pre_nms_top_n)
            anchors = anchors_of(cell_anchors[k], strides[k], *level.shape[2:])
            boxes.append(decode_boxes(codes[k][i, best], anchors[best].to(codes[k]), clip_to=(size[0], size[1])))
            scores.append(torch.sigmoid(logits[k][i, best, 0]))
            levels.append(torch.full_like(best, k))
        box, score, level_of = torch.cat(boxes), torch.cat(scores), torch.cat(levels)
        good = ((box[:, 2:] - box[:, :2]) >= min_size).all(1) & (score >= score_threshold)
        box, score, level_of = box[good], score[good], level_of[good]
        keep = batched_nms(box, score, level_of, nms_threshold, max_output=post_nms_top_n)
        images.append((box[keep], score[keep], level_of[keep]))
    if padded:
        kept, kept_scores, _, counts = pad(images, post_nms_top_n, codes[0])
        return kept, kept_scores, counts
    return [b for b, _, _ in images], [s for _, s, _ in images]


@torch.no_grad()
def retinanet_detections(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Sequence[Tensor],
    strides: Sequence[Sequence[int]],
    image_sizes: Sequence[Sequence[int]],
    *,
    score_threshold: float = 0.05,
    top_k: int = 1000,
    nms_threshold: float = 0.5,
    detections_per_image: int = 300,
    padded: bool = False,
) -> Detections:
    classes = check_pyramid("retinanet_detections", logits, deltas, cell_anchors, strides, image_sizes)
    flat, codes = flatten(logits, classes), flatten(deltas, 4)
    images = []
    for i, size in enumerate(image_sizes):
        boxes, scores, labels = [], [], []
        for k, level in enumerate(logits):
            score = torch.sigmoid(flat[k][i].flatten())
            above = (score > score_threshold).nonzero()[:, 0]
            best = above[top(score[above], top_k)]
            anchors = anchors_of(cell_anchors[k], strides[k], *level.shape[2:])
            code, anchor = (rows[best // max(1, classes)] for rows in (codes[k][i], anchors))
            boxes.append(decode_boxes(code, anchor.to(code), clip_to=(size[0], size[1])))
            scores.append(score[best])
            labels.append(best % max(1, classes))
        box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = batched_nms(box, score, label, nms_threshold, max_output=detections_per_image)
        images.append((box[keep], score[keep], label[keep]))
    return detections(images, detections_per_image, padded, codes[0])


@torch.no_grad()
def ssd_detections(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Tensor,
    image_sizes: Sequence[Sequence[int]],
    *,
    num_classes: int,
    score_threshold: float = 0.01,
    top_k: int = 400,
    nms_threshold: float = 0.45,
    detections_per_image: int = 200,
    weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    padded: bool = False,
) -> Detections:
    check_default_boxes(logits, deltas, anchors, image_sizes, num_classes)
    probabilities = torch.cat(flatten(logits, num_classes), 1).softmax(-1)
    codes = torch.cat(flatten(deltas, 4), 1)
    images = []
    for i, size in enumerate(image_sizes):
        decoded = decode_boxes(codes[i], anchors.to(codes), weights, clip_to=(size[0], size[1]))
        boxes, scores, labels = [], [], []
        for label in range(1, num_classes):
            score = probabilities[i, :, label]
            above = (score > score_threshold).nonzero()[:, 0]
            best = above[top(score[above], top_k)]
            boxes.append(decoded[best])
            scores.append(score[best])
            labels.append(torch.full_like(best, label))
        box, score, label_of = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = batched_nms(box, score, label_of, nms_threshold, max_output=detections_per_image)
        images.append((box[keep], score[keep], label_of[keep]))
    return detections(images, detections_per_image, padded, codes)
