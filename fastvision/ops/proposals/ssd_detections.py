"""SSD's output as detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference
from fastvision.ops._constant import constant, constants
from fastvision.ops.boxes import decode_boxes
from fastvision.ops.proposals.candidates import SCALE_CLAMP, alive, detections, suppress, top_candidates
from fastvision.reference.proposals.checks import check_default_boxes


@with_reference(reference.proposals.ssd_detections)
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
) -> list[dict[str, Tensor]] | tuple[Tensor, Tensor, Tensor, Tensor]:
    """Softmax, threshold, top-k of each class, decoding, clipping and NMS in one call, from the raw maps.

    Equal to torchvision's ``SSD.postprocess_detections``, equal scores ranked by index. A NaN score is no candidate.

    Args:
        logits: for each level ``[N, A C, H, W]``, floating point: ``C`` classes of each of ``A`` default boxes.
        deltas: for each level ``[N, 4 A, H, W]``: ``(dx, dy, dw, dh)`` of each default box.
        anchors: ``[M, 4]`` default boxes in pixels, by level, row, column and shape (``DefaultBoxGenerator``).
        image_sizes: ``(height, width)`` of each image, pixels.
        num_classes: ``C``, class 0 being the background.
        score_threshold: probabilities that are not greater are dropped.
        top_k: boxes taken of each class.
        nms_threshold: IoU above which the lower-scored of two boxes of one class is dropped.
        detections_per_image: kept at most.
        weights: of dx, dy, dw, dh.
        padded: shapes that do not depend on the data, nothing read back from the device.

    Shapes:
        ``-> N`` dicts of ``boxes [K, 4]``, ``scores [K]``, descending, and ``labels [K]`` int64 from 1. Padded: boxes
        ``[N, D, 4]``, scores and labels ``[N, D]``, counts ``[N]`` with ``D = detections_per_image``. Not
        differentiable.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.

    Complexity:
        ``O(N M C)`` for the softmax; then ``O(N C top_k)`` and NMS.

    Reference:
        Liu et al. 2016, section 3; ``torchvision.models.detection.ssd``.
    """
    check_default_boxes(logits, deltas, anchors, image_sizes, num_classes)
    logits, deltas, anchors = constants(logits), constants(deltas), constant(anchors)
    # a level at a time, which keeps the copies in cache
    scores = [_flattened(m, num_classes).softmax(dim=-1).transpose(1, 2)[:, :, None] for m in logits]
    indices, values = top_candidates(scores, top_k, classes=num_classes, threshold=score_threshold, ranked=True)
    values = alive(values, indices, values > score_threshold)
    codes = torch.cat([_flattened(m, 4) for m in deltas], dim=1)
    decoded = [
        decode_boxes(c, anchors, weights, scale_clamp=SCALE_CLAMP, clip_to=(int(h), int(w)))
        for c, (h, w) in zip(codes.unbind(), image_sizes, strict=True)
    ]
    boxes = torch.stack(decoded) if decoded else codes
    labels = torch.arange(1, num_classes, device=values.device)[:, None].expand_as(values).flatten(1)
    chosen = indices.clamp(min=0).flatten(1)[..., None].expand(-1, -1, 4)
    kept = suppress(boxes.gather(1, chosen), values.flatten(1), labels, nms_threshold, detections_per_image)
    return detections(kept, padded)


def _flattened(level: Tensor, numbers: int) -> Tensor:
    """``[N, A numbers, H, W]`` -> ``[N, H W A, numbers]``, half types as float32."""
    flat = torch.unflatten(level, 1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    return flat if flat.dtype == torch.float64 else flat.float()
