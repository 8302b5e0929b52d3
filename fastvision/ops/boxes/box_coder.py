"""The R-CNN box parametrisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import call, register_fake, with_reference
from fastvision.ops.boxes._gradients import empty_like, register_gradients
from fastvision.reference.boxes import SCALE_CLAMP


@with_reference(reference.boxes.encode_boxes)
def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Regression targets ``(dx, dy, dw, dh)`` of boxes relative to anchors, times ``weights``.

    Shapes:
        ``[N, 4], [N, 4] -> [N, 4]`` in the dtype of ``boxes`` (float32 for integer boxes). Differentiable once, in
        both. Lengths are in pixels, ``dx, dy`` in anchor lengths, ``dw, dh`` in natural logarithms.

    Raises:
        ValueError: shapes that differ or are not ``[N, 4]``, different devices, other than 4 weights.

    Complexity:
        ``O(N)``.

    Reference:
        Girshick et al. 2014, appendix C.
    """
    return call("encode_boxes", boxes, anchors, list(weights))


@with_reference(reference.boxes.decode_boxes)
def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clip_to: Sequence[float] | None = None,
    scale_clamp: float = SCALE_CLAMP,
) -> Tensor:
    """The inverse of :func:`encode_boxes`: predicted ``(dx, dy, dw, dh)`` and anchors give boxes.

    Args:
        deltas: ``[N, 4]``, or ``[N, 4 k]`` for k predictions an anchor (one per class).
        anchors: ``[N, 4]`` in pixels.
        weights: divisors of ``dx, dy, dw, dh``.
        clip_to: ``(height, width)`` of the image to clip boxes to.
        scale_clamp: upper limit of ``dw`` and ``dh`` before the exponential.

    Shapes:
        ``[N, 4 k], [N, 4] -> [N, 4 k]`` in the dtype of ``deltas``. Differentiable once, in both.

    Raises:
        ValueError: shapes that do not match, different devices, other than 4 weights, a negative ``clip_to``.

    Complexity:
        ``O(N k)``.

    Reference:
        Girshick et al. 2014, appendix C; the clamp is that of Detectron (log 1000/16).
    """
    clip = [] if clip_to is None else [float(side) for side in clip_to]
    return call("decode_boxes", deltas, anchors, list(weights), scale_clamp, clip)


@register_fake("encode_boxes")
def _(boxes: Tensor, anchors: Tensor, weights: list[float]) -> Tensor:
    return empty_like(boxes, boxes.dtype if boxes.is_floating_point() else torch.float32)


@register_fake("encode_boxes_backward")
def _(grad: Tensor, boxes: Tensor, anchors: Tensor, weights: list[float]) -> tuple[Tensor, Tensor]:
    return empty_like(boxes), empty_like(anchors)


@register_fake("decode_boxes")
def _(deltas: Tensor, anchors: Tensor, weights: list[float], scale_clamp: float, clip_to: list[float]) -> Tensor:
    return empty_like(deltas)


@register_fake("decode_boxes_backward")
def _(
    grad: Tensor, deltas: Tensor, anchors: Tensor, weights: list[float], scale_clamp: float, clip_to: list[float]
) -> tuple[Tensor, Tensor]:
    return empty_like(deltas), empty_like(anchors)


register_gradients("encode_boxes")
register_gradients("decode_boxes")
