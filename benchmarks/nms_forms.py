"""The other forms of non-maximum suppression: of a batch at once, of rotated boxes, and the soft one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import (
    OURS,
    REFERENCE,
    TORCHVISION,
    Options,
    Workload,
    close,
    torchvision_ops,
)
from fastvision import ops, reference
from fastvision.testing import data

_Contenders = dict[str, Callable[[], Any]]


def workloads(options: Options) -> Iterator[Workload]:
    yield _padded(options)
    for count in (1000, 10_000):
        yield _rotated(count, options)
    for method in ("gaussian", "linear"):
        for count in (1000, 10_000):
            yield _soft(count, method, options)


def _padded(options: Options) -> Workload:
    """Eight images of 4000 proposals on five levels, the best thousand kept; the others take an image at a time."""
    images, count, kept = 8, 4000, 1000
    boxes = torch.stack([data.rpn_boxes(count, seed=seed) for seed in range(images)]).to(options.device)
    scores = torch.stack([data.scores(count, seed) for seed in range(images)]).to(options.device)
    levels = torch.randint(5, (images, count), generator=data.generator(1)).to(options.device)
    contenders: _Contenders = {OURS: lambda: ops.nms_padded(boxes, scores, 0.7, kept, idxs=levels)}
    torchvision = torchvision_ops()

    def one_by_one(suppress: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        keep = boxes.new_full((images, kept), -1, dtype=torch.int64)
        counts = [0] * images
        for i, (b, s, level) in enumerate(zip(boxes, scores, levels, strict=True)):
            found = suppress(b, s, level, 0.7)[:kept]
            keep[i, : len(found)], counts[i] = found, len(found)
        return keep, torch.tensor(counts, device=boxes.device)

    if torchvision:
        contenders[TORCHVISION] = lambda: one_by_one(torchvision.batched_nms)
    contenders["batched_nms, one by one"] = lambda: one_by_one(ops.batched_nms)
    return Workload("nms", "nms_padded, 8 x 4k in 5 levels", contenders, close(0, 0))


def _rotated(count: int, options: Options) -> Workload:
    """Of any angle, sides up to 126 pixels on a 1000 x 1000 image."""
    rois = data.random_rotated_rois(count, 1, 330.0, 330.0)[:, 1:]
    rois[:, :2] *= 3
    boxes, scores = rois.to(options.device), data.scores(count).to(options.device)
    contenders: _Contenders = {OURS: lambda: ops.nms_rotated(boxes, scores, 0.5)}
    torchvision = torchvision_ops()
    if count <= 1000:
        if torchvision:
            contenders["torchvision box_iou, greedy loop"] = lambda: _greedy(
                torchvision.box_iou(boxes, boxes, "cxcywhr"), scores
            )
        if options.reference(small=False):
            contenders[REFERENCE] = lambda: reference.nms.nms_rotated(boxes, scores, 0.5)
    skipped = {} if options.cuda else {"OpenCV dnn": "takes a box within another as an overlap of 1"}
    name = f"nms_rotated {count // 1000}k"
    columns: Callable[[Tensor], dict[str, int | str]] = lambda kept: {"K": len(kept)}  # noqa: E731
    return Workload("nms", name, contenders, close(0, 0), columns=columns, skipped=skipped)


def _greedy(overlaps: Tensor, scores: Tensor) -> Tensor:
    """From the matrix of all overlaps [N, N]: what one writes without an op for it."""
    order = scores.argsort(descending=True, stable=True)
    over = (overlaps > 0.5)[order][:, order]
    alive = torch.ones_like(order, dtype=torch.bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~over[i, i + 1 :]
    return order[alive]


def _soft(count: int, method: str, options: Options) -> Workload:
    """Every box ranks again after each selection: the plain loop is quadratic whatever is kept."""
    boxes, scores = data.random_boxes(count, 1000.0, 225.0).to(options.device), data.scores(count).to(options.device)
    contenders: _Contenders = {OURS: lambda: ops.soft_nms(boxes, scores, method=method)}
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.nms.soft_nms(boxes, scores, method=method)
    check = close(1e-4, 1e-6)
    name = f"soft_nms {method} {count // 1000}k"
    return Workload("nms", name, contenders, check, columns=lambda kept: {"K": len(kept[0])})
