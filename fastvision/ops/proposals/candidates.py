"""The two kernels that the one-call post-processings share, and what follows them: suppression within each image.

A candidate that is none (a level had too few, its score or its box is too small) has the score :data:`DEAD`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision._library import register_fake
from fastvision.ops.nms.nms_padded import nms_padded

DEAD = -math.inf
SCALE_CLAMP = math.log(1000.0 / 16)  # a box grows at most 62.5-fold, as in Detectron and torchvision
# More candidates than asked for are taken in the order of logits, because a few neighbours at the end may share a score
# (a sigmoid rounds several logits to one number), and of equal scores the first by index counts. Where many share one,
# top_candidates ranks them as equal itself.
MARGIN = 32


def top_candidates(
    scores: Sequence[Tensor],
    k: int,
    *,
    classes: int = 0,
    threshold: float = -math.inf,
    sigmoid: bool = False,
    ranked: bool = False,
) -> tuple[Tensor, Tensor]:
    """Indices (-1: none) and scores of the best ``k`` of each level ``[N, channels, H, W]``, or of each class.

    -> ``[N, L, k]`` or, for ``classes`` with background 0, ``[N, classes - 1, k]``; in the order of rank or of indices.
    Scores below ``threshold`` are no candidates. ``sigmoid``: large logits that have one sigmoid in float32 (float64
    for float64 scores) count as equal, and one of them stands for all.
    """
    indices, values = torch.ops.fastvision.top_candidates(list(scores), classes, k, threshold, sigmoid, ranked)
    return indices, values


def top_probabilities(logits: Sequence[Tensor], k: int, score_threshold: float) -> tuple[Tensor, Tensor]:
    """Indices and probabilities above the threshold, the best ``k`` of each level ``[N, channels, H, W]``.

    -> ``[N, L, k]``, equal probabilities by index, :data:`DEAD` where there is none. Chosen by logits, so that the
    sigmoid is computed of the survivors alone.
    """
    indices, values = top_candidates(logits, k + MARGIN, threshold=_logit(score_threshold), sigmoid=True)
    scores = torch.sigmoid(values)
    scores = alive(scores, indices, scores > score_threshold)
    if scores.shape[-1] > k:
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        scores, indices = scores[..., :k], indices.gather(-1, order[..., :k])
    return indices, scores


def decode_candidates(
    deltas: Sequence[Tensor],
    cell_anchors: Sequence[Tensor],
    strides: Sequence[Sequence[int]],
    indices: Tensor,
    image_sizes: Sequence[Sequence[int]],
    *,
    classes: int = 1,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Tensor:
    """``[N, L, k]`` indices of (y, x, anchor, class) -> ``[N, L, k, 4]`` boxes, clipped to their images."""
    device = indices.device
    boxes: Tensor = torch.ops.fastvision.decode_candidates(
        list(deltas),
        [a.to(device) for a in cell_anchors],
        [int(pixels) for stride in strides for pixels in stride],
        indices,
        classes,
        [int(side) for size in image_sizes for side in size],
        list(weights),
        SCALE_CLAMP,
    )
    return boxes


def alive(scores: Tensor, indices: Tensor, keep: Tensor) -> Tensor:
    """``scores`` where there is a candidate and ``keep``, :data:`DEAD` elsewhere."""
    return scores.masked_fill((indices < 0) | ~keep, DEAD)  # torch.where copies its number to the device


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, max_output: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """NMS within each image and group: boxes ``[N, M, 4]``, scores and groups ``[N, M]``.

    -> boxes ``[N, max_output, 4]``, scores and groups ``[N, max_output]``, zeros after the last; counts ``[N]``.
    """
    keep, count = nms_padded(boxes, scores, iou_threshold, max_output, idxs=groups, score_threshold=DEAD)
    if boxes.shape[1] == 0:
        shape = (len(boxes), max_output)
        return boxes.new_zeros((*shape, 4)), scores.new_zeros(shape), groups.new_zeros(shape), count
    unused, chosen = keep < 0, keep.clamp(min=0)
    kept_boxes = boxes.gather(1, chosen[..., None].expand(-1, -1, 4)).masked_fill(unused[..., None], 0)
    kept_scores, kept_groups = (t.gather(1, chosen).masked_fill(unused, 0) for t in (scores, groups))
    return kept_boxes, kept_scores, kept_groups, count


def detections(
    kept: tuple[Tensor, Tensor, Tensor, Tensor], padded: bool
) -> list[dict[str, Tensor]] | tuple[Tensor, Tensor, Tensor, Tensor]:
    """A dict ``boxes, scores, labels`` for each image, or the padded tensors as they are."""
    if padded:
        return kept
    boxes, scores, labels, counts = kept
    return [
        {"boxes": boxes[i, :n], "scores": scores[i, :n], "labels": labels[i, :n]} for i, n in enumerate(counts.tolist())
    ]


def _logit(probability: float) -> float:
    """A little below the logit whose sigmoid it is: what is not above it has no greater score, rounded to float32."""
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    least = probability * (1 - 2.0**-22)
    exact = math.log(least) - math.log1p(-least)
    return exact - 1e-4 * max(1.0, abs(exact))


@register_fake("top_candidates")
def _(
    scores: list[Tensor], classes: int, k: int, threshold: float, sigmoid: bool, ranked: bool
) -> tuple[Tensor, Tensor]:
    if classes:
        rows, largest = classes - 1, sum(s.shape[1] // classes * s.shape[2] * s.shape[3] for s in scores)
    else:
        rows, largest = len(scores), max(s.shape[1] * s.shape[2] * s.shape[3] for s in scores)
    shape = [scores[0].shape[0], rows, min(k, largest)]
    dtype = torch.float64 if scores[0].dtype == torch.float64 else torch.float32
    return scores[0].new_empty(shape, dtype=torch.int64), scores[0].new_empty(shape, dtype=dtype)


@register_fake("decode_candidates")
def _(
    deltas: list[Tensor],
    cell_anchors: list[Tensor],
    strides: list[int],
    indices: Tensor,
    classes: int,
    image_sizes: list[int],
    weights: list[float],
    scale_clamp: float,
) -> Tensor:
    dtype = torch.float64 if deltas[0].dtype == torch.float64 else torch.float32
    return deltas[0].new_empty([*indices.shape, 4], dtype=dtype)
