"""Keypoints from heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops._constant import constant
from fastvision.reference.boxes import working_dtype


@with_reference(reference.masks.heatmaps_to_keypoints)
def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    """Where each heatmap, resized to its roi by bicubic interpolation, is largest (the first of equal places,
    NaN counting as largest, as :func:`torch.argmax` has it).

    All rois in one call, and no resized heatmap is stored. A roi that is not finite, or longer than 2^20 pixels, gives
    its corner and a NaN score.

    Args:
        maps: ``[N, K, M, M]``, floating point.
        rois: ``[N, 4]`` as ``(x1, y1, x2, y2)`` in pixels, any real dtype; sides below 1 count as 1.

    Shapes:
        ``[N, K, M, M], [N, 4] -> [N, K, 3], [N, K]``: ``(x, y, 1)`` in pixels, and the heatmap's value there:
        float64 if either input is, float32 otherwise. Not differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or devices.

    Complexity:
        ``O(K h w)`` for a roi of ``h x w`` pixels at worst; lines of pixels that cannot hold the maximum are skipped.

    Reference:
        He et al. 2017, section 5; ``torchvision.models.detection.roi_heads.heatmaps_to_keypoints``.
    """
    keypoints, scores = torch.ops.fastvision.heatmaps_to_keypoints(constant(maps), constant(rois))
    return keypoints, scores


@register_fake("heatmaps_to_keypoints")
def _(heatmaps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    count, keypoints = heatmaps.shape[:2]
    dtype = working_dtype(heatmaps, rois)
    return heatmaps.new_empty([count, keypoints, 3], dtype=dtype), heatmaps.new_empty([count, keypoints], dtype=dtype)
