"""Crops of images, warped to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference
from fastvision.ops.roi.roi_align import roi_align
from fastvision.reference.roi.crop_and_resize import check_boxes, dilated, fill_values, warp_size
from fastvision.reference.roi.rois import to_rois


@with_reference(reference.roi.crop_and_resize)
def crop_and_resize(
    images: Tensor,
    boxes: Tensor | Sequence[Tensor],
    size: int | Sequence[int],
    *,
    context: int = 0,
    mean: float | Sequence[float] | Tensor | None = None,
    sampling_ratio: int = -1,
) -> Tensor:
    """Warps each box of an image to the same height and width, whatever its shape, as R-CNN does.

    With ``context`` the box is dilated first, so that at the warped size so many pixels of its surroundings lie on each
    side of it. What lies more than half a pixel outside the image is filled with the mean; closer, the border's value
    holds. R-CNN fills with the mean of its training set and then subtracts it: ``mean=m`` and the crops less ``m``.

    A pixel of a crop is the mean of bilinear samples of the image, as many along each axis as it covers pixels: no
    aliasing where a box shrinks, plain bilinear interpolation where it grows.

    Args:
        images: ``[N, C, H, W]``; integers are read as float32.
        boxes: rois ``[K, 5]`` as ``(image, x1, y1, x2, y2)``, or a list of ``[K_i, 4]``, one per image, in pixels: a
            whole image is ``(0, 0, W, H)``.
        size: ``(h, w)`` of the crops, or one number for both.
        context: pixels of surroundings on each side of a crop; 16 in R-CNN, at size 227.
        mean: what to fill with: a number, or one a channel; None: the mean of each channel of the image itself.
        sampling_ratio: samples per pixel of a crop along each axis; ``<= 0``: as many as it covers pixels, rounded up;
            1: plain bilinear interpolation at pixel centres.

    Shapes:
        ``[N, C, H, W], [K, 5] -> [K, C, h, w]`` in the dtype of ``images``, float32 for integers. Differentiable in
        ``images``, any number of times; sums are float32 or wider.

    Raises:
        ValueError: wrong shapes, dtypes or devices, a size below 1, a context that leaves no room for the box, a mean
            that is not one number a channel.
        IndexError: an image index outside ``[0, N)`` (on the CPU; on CUDA such a crop is the mean of some image).

    Complexity:
        ``O(K C h w)`` for boxes that grow, ``O(K C (rows + h) (columns + w))`` at most.

    Reference:
        Girshick et al. 2014, "Rich feature hierarchies", appendix A.
    """
    height, width = warp_size(size, context)
    work = images if images.dtype == torch.float64 else images.float()
    rois = to_rois(boxes, images).to(work.dtype)
    check_boxes(images, rois)
    fill = fill_values(work, mean)  # [N, C]
    centred = work - fill[:, :, None, None]
    crops = roi_align(centred, dilated(rois, height, width, context), (height, width), 1.0, sampling_ratio, True)
    image = rois[:, 0].nan_to_num().long().clamp(0, max(images.shape[0] - 1, 0))
    crops += fill[image][:, :, None, None]  # in place: crops are much larger than images
    return crops.to(images.dtype) if images.is_floating_point() else crops
