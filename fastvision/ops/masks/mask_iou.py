"""Intersection over union of masks: a matrix product of zeros and ones, which torch computes well."""

from __future__ import annotations

from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference


@with_reference(reference.masks.mask_iou)
def mask_iou(masks1: Tensor, masks2: Tensor) -> Tensor:
    """Intersection over union of every pair of masks; 0 for two empty ones.

    Args:
        masks1: ``[N, H, W]``, any dtype: a pixel is set where it is not zero.
        masks2: ``[M, H, W]``.

    Shapes:
        ``[N, H, W], [M, H, W] -> [N, M]`` float32. Not differentiable.

    Raises:
        ValueError: masks not three-dimensional, or of different sizes.

    Complexity:
        ``O(N M H W)``, in pieces of at most 2^20 pixels.

    Reference:
        Lin et al. 2014 (COCO): ``pycocotools.mask.iou`` without crowds.
    """
    return reference.masks.mask_iou(masks1, masks2)
