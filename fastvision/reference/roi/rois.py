"""The forms in which regions and output sizes may be given."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.boxes import working_dtype


def to_rois(boxes: Tensor | Sequence[Tensor], like: Tensor, columns: int = 4) -> Tensor:
    """[K, 5], or a list of [K_i, 4], one per image -> [K, 5] with the image index first. `columns`: of a box, 4.

    Half and integer boxes of a list become float32: bfloat16 cannot even count past 256 images. An empty list is no
    rois on the device of ``like``.
    """
    if isinstance(boxes, Tensor):
        return boxes
    for b in boxes:
        if b.dim() != 2 or b.shape[1] != columns:
            raise ValueError(f"expected a list of boxes of shape [K, {columns}], got {list(b.shape)}")
    if not boxes:
        return torch.zeros(0, columns + 1, device=like.device)
    dtype = working_dtype(*boxes)
    rows = [b.to(dtype) for b in boxes]
    images = [b.new_full((len(b), 1), float(i)) for i, b in enumerate(rows)]
    return torch.cat([torch.cat(images), torch.cat(rows)], dim=1)


def to_size(output_size: int | Sequence[int]) -> tuple[int, int]:
    """An int or (height, width) -> (height, width)."""
    sides = tuple(output_size) if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(sides) != 2:
        raise ValueError(f"expected an output size of one or two integers, got {output_size}")
    return operator.index(sides[0]), operator.index(sides[1])
