"""Crops of images, warped to one size, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.roi_align import sampling_matrix
from fastvision.reference.roi.rois import to_rois, to_size


def warp_size(size: int | Sequence[int], context: int) -> tuple[int, int]:
    """(height, width), large enough for the context and a box of at least one pixel."""
    height, width = to_size(size)
    if not 0 <= 2 * context < min(height, width):
        raise ValueError(f"crop_and_resize: expected 0 <= 2 * context < {min(height, width)}, the size, got {context}")
    return height, width


def check_boxes(images: Tensor, rois: Tensor) -> None:
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"crop_and_resize: expected boxes of shape [K, 5], got {list(rois.shape)}")
    if images.shape[0] == 0 and rois.shape[0] > 0:
        raise IndexError(f"crop_and_resize: expected no boxes without images, got {rois.shape[0]}")


def dilated(rois: Tensor, height: int, width: int, context: int) -> Tensor:
    """[K, 5]: rois that at the warped size have ``context`` pixels more on each side."""
    if context == 0:
        return rois
    low, high = rois[:, 1:3], rois[:, 3:5]
    inner = rois.new_tensor([width - 2 * context, height - 2 * context])
    margin = (high - low) * context / inner
    return torch.cat([rois[:, :1], low - margin, high + margin], 1)


def fill_values(images: Tensor, mean: float | Sequence[float] | Tensor | None) -> Tensor:
    """[N, C]: what each channel of each image is filled with."""
    if images.dim() != 4:
        raise ValueError(f"crop_and_resize: expected images of shape [N, C, H, W], got {list(images.shape)}")
    n, channels = images.shape[:2]
    if mean is None:
        return images.mean((2, 3)).nan_to_num() if images.shape[2] * images.shape[3] == 0 else images.mean((2, 3))
    values = torch.as_tensor(mean, dtype=images.dtype, device=images.device)
    if values.dim() > 1 or (values.dim() == 1 and values.shape[0] != channels):
        raise ValueError(f"crop_and_resize: expected a mean for each of {channels} channels, got {list(values.shape)}")
    return values.expand(n, channels)


def crop_and_resize(
    images: Tensor,
    boxes: Tensor | Sequence[Tensor],
    size: int | Sequence[int],
    *,
    context: int = 0,
    mean: float | Sequence[float] | Tensor | None = None,
    sampling_ratio: int = -1,
) -> Tensor:
    """[N, C, H, W], [K, 5] -> [K, C, h, w]: weights of pixels on each side, the rest is the mean's."""
    height, width = warp_size(size, context)
    work = images if images.dtype == torch.float64 else images.float()
    rois = to_rois(boxes, images).to(work.dtype)
    check_boxes(images, rois)
    rois = dilated(rois, height, width, context)
    fill = fill_values(work, mean)
    crops = [work.new_zeros(0, images.shape[1], height, width) + 0 * work.sum()]
    for roi in rois:
        if not 0 <= roi[0] < len(images):
            raise IndexError(f"crop_and_resize: expected the image of a roi in [0, {len(images)}), got {roi[0]}")
        image, (x1, y1, x2, y2) = int(roi[0]), (roi[1:] - 0.5).unbind()
        rows = sampling_matrix(y1, y2 - y1, height, sampling_ratio, images.shape[2])
        columns = sampling_matrix(x1, x2 - x1, width, sampling_ratio, images.shape[3])
        covered = rows.sum(1)[:, None] * columns.sum(1)  # [h, w], 1 inside the image
        crops.append((rows @ work[image] @ columns.T + (1 - covered) * fill[image, :, None, None])[None])
    result = torch.cat(crops)
    return result.to(images.dtype) if images.is_floating_point() else result
