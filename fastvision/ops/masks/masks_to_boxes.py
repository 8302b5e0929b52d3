"""Boxes around masks."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference


@with_reference(reference.masks.masks_to_boxes)
def masks_to_boxes(masks: Tensor) -> Tensor:
    """The smallest box that holds the pixels of each mask, corners at the first and last pixel; zeros if it has none.

    Args:
        masks: ``[N, H, W]``, any dtype: a pixel is set where it is not zero.

    Shapes:
        ``[N, H, W] -> [N, 4]`` float32 as ``(x1, y1, x2, y2)``. Not differentiable.

    Raises:
        ValueError: masks not three-dimensional.

    Complexity:
        ``O(N H W)``, one pass over the bytes.

    Reference:
        ``torchvision.ops.masks_to_boxes``.
    """
    return torch.ops.fastvision.masks_to_boxes(masks if masks.dtype == torch.bool else masks != 0)


@register_fake("masks_to_boxes")
def _(masks: Tensor) -> Tensor:
    return masks.new_empty([masks.shape[0], 4], dtype=torch.float32)
