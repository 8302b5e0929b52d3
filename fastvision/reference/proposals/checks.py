"""Whether a detector's raw maps fit together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_count(op: str, name: str, values: Sequence[object], levels: int) -> None:
    if len(values) != levels:
        raise ValueError(f"{op}: expected {name} of each of {levels} levels, got {len(values)}")


def check_maps(
    op: str,
    scores: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Sequence[int],
    classes: int,
    image_sizes: Sequence[Sequence[int]],
) -> None:
    """Of each level ``[N, A classes, H, W]`` and ``[N, 4 A, H, W]``, A the anchors of a cell."""
    check_count(op, "deltas", deltas, len(scores))
    for level, (score, delta, count) in enumerate(zip(scores, deltas, anchors, strict=True)):
        images, *size = len(image_sizes), *score.shape[2:]
        if score.dim() != 4 or score.shape[:2] != (images, count * classes):
            raise ValueError(
                f"{op}: expected scores of level {level} of shape [{images}, {count} x {classes}, H, W], "
                f"for each image size and anchor, got {list(score.shape)}"
            )
        if delta.shape != (images, 4 * count, *size):
            raise ValueError(
                f"{op}: expected deltas of level {level} of shape {[images, 4 * count, *size]} to match scores "
                f"{list(score.shape)}, got {list(delta.shape)}"
            )


def check_pyramid(
    op: str,
    scores: Sequence[Tensor],
    deltas: Sequence[Tensor],
    cell_anchors: Sequence[Tensor],
    strides: Sequence[Sequence[int]],
    image_sizes: Sequence[Sequence[int]],
    classes: int | None = None,
) -> int:
    """The same with anchors ``[A, 4]`` and a stride for each level; returns the classes, found unless given."""
    if not scores:
        raise ValueError(f"{op}: expected at least one level, got none")
    check_count(op, "cell anchors", cell_anchors, len(scores))
    check_count(op, "strides", strides, len(scores))
    anchors = [cell.shape[0] for cell in cell_anchors]
    if classes is None:
        classes = int(scores[0].shape[1]) // max(1, anchors[0]) if scores[0].dim() == 4 else 1
    check_maps(op, scores, deltas, anchors, classes, image_sizes)
    return classes


def check_default_boxes(
    logits: Sequence[Tensor],
    deltas: Sequence[Tensor],
    anchors: Tensor,
    image_sizes: Sequence[Sequence[int]],
    classes: int,
) -> None:
    """The same with anchors ``[M, 4]`` of all levels."""
    op = "ssd_detections"
    if not logits or classes < 1:
        raise ValueError(f"{op}: expected at least one level and class, got {len(logits)} and {classes}")
    counts = [int(m.shape[1]) // classes if m.dim() == 4 else 0 for m in logits]
    check_maps(op, logits, deltas, counts, classes, image_sizes)
    total = sum(count * m.shape[2] * m.shape[3] for count, m in zip(counts, logits, strict=True))
    if anchors.shape != (total, 4):
        raise ValueError(f"{op}: expected anchors of shape [{total}, 4], got {list(anchors.shape)}")
