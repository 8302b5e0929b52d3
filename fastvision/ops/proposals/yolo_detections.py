"""YOLO's output as detections: the grid of the first version, and the dense heads of today's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference
from fastvision.ops._constant import constant, constants
from fastvision.ops.proposals.candidates import DEAD, detections, suppress, top_probabilities
from fastvision.reference.boxes import working_dtype
from fastvision.reference.proposals.yolo_detections import check_outputs, clipped, distances, grid_boxes


@with_reference(reference.proposals.yolo_detections)
def yolo_detections(
    outputs: Tensor | Sequence[Tensor],
    image_sizes: Sequence[Sequence[int]],
    *,
    num_classes: int,
    strides: Sequence[int] = (8, 16, 32),
    score_threshold: float = 0.25,
    top_k: int = 1000,
    nms_threshold: float = 0.45,
    detections_per_image: int = 300,
    multi_label: bool = False,
    padded: bool = False,
) -> list[dict[str, Tensor]] | tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, threshold, top-k, decoding, clipping and NMS of each class in one call, from the raw output.

    A tensor ``[N, S, S, 5 B + C]`` is the grid of YOLO's first version: ``B`` times ``(x, y, sqrt w, sqrt h,
    confidence)``, x and y within the cell and w and h within the image from 0 to 1, then ``C`` class probabilities; a
    score is confidence times probability. A list is the dense, anchor-free head of later versions, for each level
    ``[N, 4 R + C, H, W]``: for each side of the box logits over its distance from the cell's centre, 0 to ``R - 1``
    strides (their expectation is the distance), then ``C`` class logits, whose sigmoids are the scores.

    Args:
        outputs: floating point.
        image_sizes: ``(height, width)`` of each image, pixels.
        num_classes: ``C``.
        strides: of each level of a list, pixels.
        score_threshold: scores that are not greater are dropped.
        top_k: candidates taken of each level of a list (a grid has few).
        nms_threshold: IoU above which the lower-scored of two boxes of one class is dropped.
        detections_per_image: kept at most.
        multi_label: each class of a box is a candidate, instead of its best one alone.
        padded: shapes that do not depend on the data, nothing read back from the device.

    Shapes:
        ``-> N`` dicts of ``boxes [K, 4]``, ``scores [K]``, descending, and ``labels [K]`` int64 from 0. Padded: boxes
        ``[N, D, 4]``, scores and labels ``[N, D]``, counts ``[N]`` with ``D = detections_per_image``. Equal scores
        are ranked by level, row, column and class (or box of the cell). Not differentiable.

    Raises:
        ValueError: shapes that do not fit together.

    Complexity:
        One pass over the class logits; then ``O(N L top_k)`` and NMS.

    Reference:
        Redmon et al. 2016, sections 2 and 2.2; the distances as distributions: Li et al. 2020 (Generalized Focal
        Loss), section 3.2.
    """
    check_outputs(outputs, image_sizes, num_classes, strides)
    if isinstance(outputs, Tensor):
        boxes, scores, labels = grid_boxes(constant(outputs), image_sizes, num_classes, multi_label)
        scores = scores.masked_fill(~(scores > score_threshold), DEAD)
    else:
        levels = constants(outputs)
        boxes, scores, labels = _dense(levels, image_sizes, num_classes, strides, score_threshold, top_k, multi_label)
    return detections(suppress(boxes, scores, labels, nms_threshold, detections_per_image), padded)


def _dense(
    outputs: Sequence[Tensor],
    image_sizes: Sequence[Sequence[int]],
    classes: int,
    strides: Sequence[int],
    score_threshold: float,
    top_k: int,
    multi_label: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates ``[N, M, 4], [N, M], [N, M]`` of all levels."""
    logits = [o[:, -classes:] for o in outputs]
    if not multi_label:
        logits = [level.amax(dim=1, keepdim=True) for level in logits]
    indices, scores = top_probabilities(logits, top_k, score_threshold)
    boxes, labels = [], []
    for level, (output, stride) in enumerate(zip(outputs, strides, strict=True)):
        chosen = indices[:, level].clamp(min=0)
        cell = chosen // classes if multi_label else chosen
        channels = output.shape[1] - classes
        rows = output.flatten(2).gather(2, cell[:, None].expand(-1, output.shape[1], -1))
        labels.append(chosen % classes if multi_label else _best_class(rows[:, channels:]))
        boxes.append(distances(torch.unflatten(rows[:, :channels], 1, (4, -1)), cell, output.shape[3], stride))
    return clipped(torch.cat(boxes, 1), image_sizes), scores.flatten(1), torch.cat(labels, 1)


def _best_class(logits: Tensor) -> Tensor:
    """[N, C, M] -> [N, M]: of probabilities, the first of equals, as several logits share one."""
    return logits.to(working_dtype(logits)).sigmoid().max(dim=1).indices
