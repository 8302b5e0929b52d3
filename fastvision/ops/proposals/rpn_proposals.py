"""A region proposal network's output as boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference
from fastvision.ops._constant import constants
from fastvision.ops.proposals.candidates import alive, decode_candidates, suppress, top_candidates
from fastvision.reference.proposals.checks import check_pyramid


@with_reference(reference.proposals.rpn_proposals)
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
    """Top-k of each level, decoding, clipping, filtering and NMS in one call, from the raw maps.

    Equal to ``torchvision.models.detection.rpn.RegionProposalNetwork`` after its head, equal logits ranked by index;
    neither anchors nor permuted copies of the maps are made. A NaN logit is no candidate.

    Args:
        objectness: for each level logits ``[N, A, H, W]``, floating point.
        deltas: for each level ``[N, 4 A, H, W]``: ``(dx, dy, dw, dh)`` of each anchor.
        cell_anchors: for each level ``[A, 4]`` around a cell's origin, pixels (``AnchorGenerator.cell_anchors``); on
            the device of the maps, or copied there.
        strides: for each level pixels ``(down, right)`` from a cell to the next (``AnchorGenerator.strides``).
        image_sizes: ``(height, width)`` of each image, pixels.
        pre_nms_top_n: candidates taken of each level.
        post_nms_top_n: proposals kept of each image.
        nms_threshold: IoU above which the lower-scored of two proposals of one level is dropped.
        score_threshold: least probability.
        min_size: least side, pixels.
        padded: shapes that do not depend on the data, nothing read back from the device: for ``torch.compile`` without
            dynamic shapes and for CUDA graphs.

    Shapes:
        ``-> N`` tensors ``[K_i, 4]`` and ``N`` tensors ``[K_i]`` of probabilities, descending; float32 (float64 for
        float64 maps). Padded: ``[N, post_nms_top_n, 4]``, ``[N, post_nms_top_n]`` and counts ``[N]``. Not
        differentiable: proposals are constants in training (Ren et al. 2015, section 3.2).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.

    Complexity:
        One pass over the logits; then ``O(N L pre_nms_top_n)`` and NMS.

    Reference:
        Ren et al. 2015, section 3; ``torchvision.models.detection.rpn``.
    """
    check_pyramid("rpn_proposals", objectness, deltas, cell_anchors, strides, image_sizes, 1)
    objectness, deltas, cell_anchors = constants(objectness), constants(deltas), constants(cell_anchors)
    indices, logits = top_candidates(objectness, pre_nms_top_n, ranked=True)
    boxes = decode_candidates(deltas, cell_anchors, strides, indices, image_sizes)
    scores = torch.sigmoid(logits)
    large = ((boxes[..., 2:] - boxes[..., :2]) >= min_size).all(-1)
    scores = alive(scores, indices, large & (scores >= score_threshold))
    levels = torch.arange(scores.shape[1], device=scores.device)[:, None].expand_as(scores)
    kept, kept_scores, _, counts = suppress(
        boxes.flatten(1, 2), scores.flatten(1), levels.flatten(1), nms_threshold, post_nms_top_n
    )
    if padded:
        return kept, kept_scores, counts
    sizes = counts.tolist()
    return [b[:n] for b, n in zip(kept, sizes, strict=True)], [s[:n] for s, n in zip(kept_scores, sizes, strict=True)]
