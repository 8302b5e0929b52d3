"""YOLO's grid and dense heads, decoded in full, then filtered and suppressed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.boxes import working_dtype
from fastvision.reference.nms import batched_nms
from fastvision.reference.proposals.pipeline import Detections, detections, top


def check_outputs(
    outputs: Tensor | Sequence[Tensor], image_sizes: Sequence[Sequence[int]], classes: int, strides: Sequence[int]
) -> None:
    if not len(outputs) and not isinstance(outputs, Tensor):
        raise ValueError("yolo_detections: expected at least one level, got none")
    images = len(outputs) if isinstance(outputs, Tensor) else len(outputs[0])
    if len(image_sizes) != images:
        raise ValueError(f"yolo_detections: expected {images} image sizes, got {len(image_sizes)}")
    if isinstance(outputs, Tensor):
        if outputs.dim() != 4 or outputs.shape[3] <= classes or (outputs.shape[3] - classes) % 5:
            raise ValueError(
                f"yolo_detections: expected outputs of shape [N, S, S, 5 B + {classes}], got {list(outputs.shape)}"
            )
        return
    if len(outputs) != len(strides):
        raise ValueError(f"yolo_detections: expected a stride for each of {len(outputs)} levels, got {len(strides)}")
    for level in outputs:
        if level.dim() != 4 or len(level) != images or level.shape[1] <= classes or (level.shape[1] - classes) % 4:
            raise ValueError(
                f"yolo_detections: expected levels of shape [{images}, 4 R + {classes}, H, W], got {list(level.shape)}"
            )


def extents(image_sizes: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    """[N, 2] (width, height), number by number: a CUDA graph could not capture a copy from the host."""
    sides = [like.new_full((), float(side)) for height, width in image_sizes for side in (width, height)]
    return torch.stack(sides).reshape(-1, 2) if sides else like.new_zeros(0, 2)


def clipped(boxes: Tensor, image_sizes: Sequence[Sequence[int]]) -> Tensor:
    """[N, M, 4] within images of (height, width)"""
    return torch.minimum(boxes.clamp(min=0), extents(image_sizes, boxes).repeat(1, 2)[:, None])


def labelled(probabilities: Tensor, multi_label: bool) -> tuple[Tensor, Tensor]:
    """[N, M, C] -> scores and labels [N, M C], or those of the best class alone [N, M]"""
    if not multi_label:
        best = probabilities.max(-1)
        return best.values, best.indices
    labels = torch.arange(probabilities.shape[-1], device=probabilities.device).expand_as(probabilities)
    return probabilities.flatten(1), labels.flatten(1)


def grid_boxes(
    output: Tensor, image_sizes: Sequence[Sequence[int]], classes: int, multi_label: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """[N, S, S, 5 B + C] -> boxes [N, M, 4], scores and labels [N, M], by row, column, box and class"""
    values = output.to(working_dtype(output))
    rows, columns = values.shape[1:3]
    boxes = torch.unflatten(values[..., :-classes], -1, (-1, 5))
    corner = torch.stack(
        torch.meshgrid(
            torch.arange(rows, device=values.device), torch.arange(columns, device=values.device), indexing="ij"
        ),
        -1,
    ).flip(-1)[None, :, :, None]
    extent = extents(image_sizes, values)[:, None, None, None]
    centre = (boxes[..., :2] + corner) / extents([(rows, columns)], values) * extent
    half = boxes[..., 2:4] ** 2 * extent / 2
    corners = clipped(torch.cat([centre - half, centre + half], -1).flatten(1, 3), image_sizes)
    probabilities = (boxes[..., 4:] * values[..., None, -classes:]).flatten(1, 3)
    scores, labels = labelled(probabilities, multi_label)
    return corners.repeat_interleave(classes, 1) if multi_label else corners, scores, labels


def distances(bins: Tensor, cell: Tensor, width: int, stride: int) -> Tensor:
    """Logits [N, 4, R, M] over distances of the left, top, right and bottom side, cells [N, M] -> boxes [N, M, 4]"""
    weights = bins.to(working_dtype(bins)).softmax(2)
    steps = torch.arange(bins.shape[2], dtype=weights.dtype, device=weights.device)
    left, top_, right, bottom = (weights * steps[:, None]).sum(2).unbind(1)
    x, y = cell % width + 0.5, cell // width + 0.5
    return torch.stack([x - left, y - top_, x + right, y + bottom], -1) * stride


@torch.no_grad()
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
) -> Detections:
    check_outputs(outputs, image_sizes, num_classes, strides)
    levels = []
    if isinstance(outputs, Tensor):
        levels.append(grid_boxes(outputs, image_sizes, num_classes, multi_label))
        top_k = levels[0][1].shape[1]
    else:
        for output, stride in zip(outputs, strides, strict=True):
            cells = torch.arange(output.shape[2] * output.shape[3], device=output.device).expand(len(output), -1)
            bins = torch.unflatten(output[:, :-num_classes].flatten(2), 1, (4, -1))
            boxes = clipped(distances(bins, cells, output.shape[3], stride), image_sizes)
            probabilities = torch.sigmoid(output[:, -num_classes:].to(boxes.dtype)).flatten(2).transpose(1, 2)
            scores, labels = labelled(probabilities, multi_label)
            levels.append((boxes.repeat_interleave(num_classes, 1) if multi_label else boxes, scores, labels))
    images = []
    for i in range(len(image_sizes)):
        chosen: list[tuple[Tensor, Tensor, Tensor]] = []
        for boxes, scores, labels in levels:
            above = (scores[i] > score_threshold).nonzero()[:, 0]
            best = above[top(scores[i, above], top_k)]
            chosen.append((boxes[i, best], scores[i, best], labels[i, best]))
        box, score, label = (torch.cat(column) for column in zip(*chosen, strict=True))
        keep = batched_nms(box, score, label, nms_threshold, max_output=detections_per_image)
        images.append((box[keep], score[keep], label[keep]))
    return detections(images, detections_per_image, padded, levels[0][0])
