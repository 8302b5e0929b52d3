"""Masks of boxes as run lengths of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import register_fake, with_reference
from fastvision.ops._constant import constant


@with_reference(reference.masks.paste_masks_rle)
def paste_masks_rle(
    masks: Tensor, boxes: Tensor, image_size: Sequence[int], *, threshold: float = 0.5, rule: str = "torchvision"
) -> list[dict[str, Any]]:
    """:func:`paste_masks` in COCO's compressed run-length encoding, without a dense mask in between.

    Args:
        masks: ``[N, M, M]`` or ``[N, 1, M, M]`` probabilities, floating point.
        boxes: ``[N, 4]`` as ``(x1, y1, x2, y2)`` in pixels, any real dtype.
        image_size: ``(height, width)`` in pixels.
        threshold: as for :func:`paste_masks`.
        rule: as for :func:`paste_masks`.

    Shapes:
        ``-> N`` dicts ``{"size": [height, width], "counts": bytes}``, what ``pycocotools.mask.encode`` gives of the
        pasted mask. Not differentiable, and not for ``torch.compile``: the result is text.

    Raises:
        ValueError: wrong shapes, dtypes or devices, an unknown rule, a negative image size.

    Complexity:
        ``O(h w)`` of each box. Runs on the host, whatever the device of the masks.

    Reference:
        Lin et al. 2014 (COCO), the format of ``pycocotools``.
    """
    height, width = image_size
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    texts, ends = torch.ops.fastvision.paste_masks_rle(constant(masks), constant(boxes), height, width, threshold, rule)
    data, last, found = texts.numpy().tobytes(), 0, []
    for end in ends.tolist():
        found.append({"size": [height, width], "counts": data[last:end]})
        last = end
    return found


@register_fake("paste_masks_rle")
def _(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float, rule: str) -> tuple[Tensor, Tensor]:
    text = torch.library.get_ctx().new_dynamic_size()
    like = torch.empty(0, device="cpu")  # what runs on the host stays there
    return like.new_empty([text], dtype=torch.uint8), like.new_empty([masks.shape[0]], dtype=torch.int64)
