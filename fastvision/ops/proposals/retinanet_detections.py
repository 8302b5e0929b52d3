"""RetinaNet's output as detections."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference
from fastvision.ops._constant import constants
from fastvision.ops.proposals.candidates import decode_candidates, detections, suppress, top_probabilities
from fastvision.reference.proposals.checks import check_pyramid


@with_reference(reference.proposals.retinanet_detections)
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
) -> list[dict[str, Tensor]] | tuple[Tensor, Tensor, Tensor, Tensor]:
    """Threshold, top-k of each level, decoding, clipping and NMS of each class in one call, from the raw maps.

    Equal to torchvision's ``RetinaNet.postprocess_detections``, equal scores ranked by index. The threshold is applied
    to logits, so that probabilities are computed of the survivors alone. A NaN logit is no candidate.

    Args:
        logits: for each level ``[N, A C, H, W]``, floating point: ``C`` classes of each of ``A`` anchors.
        deltas: for each level ``[N, 4 A, H, W]``: ``(dx, dy, dw, dh)`` of each anchor.
        cell_anchors: for each level ``[A, 4]`` around a cell's origin, pixels (``AnchorGenerator.cell_anchors``); on
            the device of the maps, or copied there.
        strides: for each level pixels ``(down, right)`` from a cell to the next (``AnchorGenerator.strides``).
        image_sizes: ``(height, width)`` of each image, pixels.
        score_threshold: probabilities that are not greater are dropped.
        top_k: (anchor, class) pairs taken of each level.
        nms_threshold: IoU above which the lower-scored of two boxes of one class is dropped.
        detections_per_image: kept at most.
        padded: shapes that do not depend on the data, nothing read back from the device.

    Shapes:
        ``-> N`` dicts of ``boxes [K, 4]``, ``scores [K]``, descending, and ``labels [K]`` int64 from 0. Padded: boxes
        ``[N, D, 4]``, scores and labels ``[N, D]``, counts ``[N]`` with ``D = detections_per_image``. Not
        differentiable.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.

    Complexity:
        One pass over the logits; then ``O(N L top_k)`` and NMS.

    Reference:
        Lin et al. 2017, section 4; ``torchvision.models.detection.retinanet``.
    """
    classes = max(1, check_pyramid("retinanet_detections", logits, deltas, cell_anchors, strides, image_sizes))
    logits, deltas, cell_anchors = constants(logits), constants(deltas), constants(cell_anchors)
    indices, scores = top_probabilities(logits, top_k, score_threshold)
    boxes = decode_candidates(deltas, cell_anchors, strides, indices, image_sizes, classes=classes)
    labels = (indices % classes).flatten(1)
    kept = suppress(boxes.flatten(1, 2), scores.flatten(1), labels, nms_threshold, detections_per_image)
    return detections(kept, padded)
