"""Masks of boxes as masks of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops._constant import constant


@with_reference(reference.masks.paste_masks)
def paste_masks(
    masks: Tensor,
    boxes: Tensor,
    image_size: Sequence[int],
    *,
    threshold: float | None = 0.5,
    rule: str = "torchvision",
) -> Tensor:
    """Resizes each mask to its box by bilinear interpolation and places it in an image of zeros.

    Outside its box, and everywhere if the box is not finite, an image is zero (which a threshold may count as set).

    Args:
        masks: ``[N, M, M]`` or ``[N, 1, M, M]`` probabilities, floating point.
        boxes: ``[N, 4]`` as ``(x1, y1, x2, y2)`` in pixels, any real dtype.
        image_size: ``(height, width)`` in pixels.
        threshold: a pixel is set where the mask is above it (torchvision) or not below it (Detectron2); None: the
            interpolated numbers themselves.
        rule: ``"torchvision"``: the mask gets a border of zeros, the box grows as much and is cut to whole pixels.
            ``"detectron2"``: the mask is looked up at the centre of each pixel, zero outside.

    Shapes:
        ``[N, M, M], [N, 4] -> [N, H, W]`` bool, or the dtype of ``masks`` without threshold. Not differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an unknown rule, a negative image size.

    Complexity:
        ``O(N H W)`` bytes written; arithmetic within the boxes alone.

    Reference:
        He et al. 2017, section 3.1; ``paste_masks_in_image`` of torchvision and of Detectron2.
    """
    height, width = image_size
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    return torch.ops.fastvision.paste_masks(constant(masks), constant(boxes), height, width, threshold, rule)


@register_fake("paste_masks")
def _(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float | None, rule: str) -> Tensor:
    dtype = masks.dtype if threshold is None else torch.bool
    return masks.new_empty([masks.shape[0], height, width], dtype=dtype)
