"""Anchors and default boxes as modules, equal to torchvision's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def _per_image(image_list: Any, boxes: Tensor) -> list[Tensor]:
    return [boxes.clone() if i else boxes for i in range(len(image_list.image_sizes))]


class AnchorGenerator(nn.Module):
    """Anchors of several sizes and aspect ratios around every cell of every level.

    Args:
        sizes: for each level the square roots of the anchors' areas, pixels.
        aspect_ratios: for each level (or once for all) heights over widths.

    Shapes:
        ``(images, [[N, C, H_l, W_l], ...]) -> N tensors [sum of H_l W_l A_l, 4]``, ordered by level, row, column,
        aspect ratio and size. ``images`` is torchvision's ``ImageList`` or anything with ``tensors`` and
        ``image_sizes``.

    Attributes:
        cell_anchors: for each level ``[A_l, 4]``, around the origin: what :func:`rpn_proposals` and
            :func:`retinanet_detections` take.

    Reference:
        Ren et al. 2015, section 3.1.1; ``torchvision.models.detection.anchor_utils.AnchorGenerator``.
    """

    def __init__(
        self,
        sizes: Sequence[Any] = ((128, 256, 512),),
        aspect_ratios: Sequence[Any] = ((0.5, 1.0, 2.0),),
    ) -> None:
        super().__init__()
        if not isinstance(sizes[0], (list, tuple)):
            sizes = tuple((size,) for size in sizes)
        if not isinstance(aspect_ratios[0], (list, tuple)):
            aspect_ratios = (aspect_ratios,) * len(sizes)
        self.sizes = sizes
        self.aspect_ratios = aspect_ratios
        self.cell_anchors = [self.generate_anchors(s, r) for s, r in zip(sizes, aspect_ratios, strict=False)]

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """``[len(aspect_ratios) len(scales), 4]`` around the origin, rounded to whole pixels."""
        side = torch.as_tensor(scales, dtype=dtype, device=device)
        taller = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths, heights = ((factor[:, None] * side[None]).flatten() for factor in (1 / taller, taller))
        return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        """Moves ``cell_anchors``."""
        self.cell_anchors = [anchors.to(dtype=dtype, device=device) for anchors in self.cell_anchors]

    def num_anchors_per_location(self) -> list[int]:
        """Anchors a cell, for each level."""
        return [len(s) * len(r) for s, r in zip(self.sizes, self.aspect_ratios, strict=False)]

    @staticmethod
    def strides(image_size: Sequence[int], feature_maps: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Pixels (down, right) from a cell to the next, for each level."""
        return [(image_size[0] // f.shape[-2], image_size[1] // f.shape[-1]) for f in feature_maps]

    def grid_anchors(self, grid_sizes: Sequence[Sequence[int]], strides: Sequence[Sequence[Any]]) -> list[Tensor]:
        """For each level ``[H W A, 4]``."""
        if not len(grid_sizes) == len(strides) == len(self.cell_anchors):
            raise ValueError(
                f"AnchorGenerator: expected {len(self.cell_anchors)} feature maps, one for each tuple of sizes, got "
                f"{len(grid_sizes)}"
            )
        levels = []
        for (rows, columns), (down, right), around in zip(grid_sizes, strides, self.cell_anchors, strict=True):
            y = torch.arange(rows, dtype=torch.int32, device=around.device) * down
            x = torch.arange(columns, dtype=torch.int32, device=around.device) * right
            y, x = torch.meshgrid(y, x, indexing="ij")
            origins = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
            levels.append((origins + around).reshape(-1, 4))
        return levels

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        strides = self.strides(image_list.tensors.shape[-2:], feature_maps)
        levels = self.grid_anchors([f.shape[-2:] for f in feature_maps], strides)
        return _per_image(image_list, torch.cat(levels))


class DefaultBoxGenerator(nn.Module):
    """SSD's default boxes: for each cell two squares, and two boxes for each further aspect ratio.

    Args:
        aspect_ratios: for each level.
        min_ratio: smallest scale, as a fraction of the image, if ``scales`` is not given.
        max_ratio: largest scale, likewise.
        scales: for each level, and one more.
        steps: pixels from a cell to the next for each level; None: the image divided by the level's size.
        clip: sides at most those of the image.

    Shapes:
        ``(images, [[N, C, H_l, W_l], ...]) -> N tensors [sum of H_l W_l A_l, 4]`` in pixels, ordered by level, row,
        column and shape: what :func:`ssd_detections` takes.

    Raises:
        ValueError: as many steps as aspect ratios are needed.

    Reference:
        Liu et al. 2016, section 2.2; ``torchvision.models.detection.anchor_utils.DefaultBoxGenerator``.
    """

    def __init__(
        self,
        aspect_ratios: list[list[int]],
        min_ratio: float = 0.15,
        max_ratio: float = 0.9,
        scales: list[float] | None = None,
        steps: list[int] | None = None,
        clip: bool = True,
    ) -> None:
        super().__init__()
        if steps is not None and len(aspect_ratios) != len(steps):
            raise ValueError(
                f"DefaultBoxGenerator: expected {len(aspect_ratios)} steps, one for each level, got {len(steps)}"
            )
        self.aspect_ratios = aspect_ratios
        self.steps = steps
        self.clip = clip
        levels = len(aspect_ratios)
        if scales is not None:
            self.scales = scales
        elif levels > 1:
            growth = max_ratio - min_ratio
            self.scales = [min_ratio + growth * k / (levels - 1.0) for k in range(levels)] + [1.0]
        else:
            self.scales = [min_ratio, max_ratio]
        self._wh_pairs = [self._sides(k) for k in range(levels)]

    def _sides(self, k: int) -> Tensor:
        """[A, 2] widths and heights of level k, as fractions of the image."""
        scale, between = self.scales[k], math.sqrt(self.scales[k] * self.scales[k + 1])
        sides = [[scale, scale], [between, between]]
        for ratio in self.aspect_ratios[k]:
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [[long, short], [short, long]]
        return torch.tensor(sides, dtype=torch.float32)

    def num_anchors_per_location(self) -> list[int]:
        """Default boxes a cell, for each level."""
        return [2 + 2 * len(ratios) for ratios in self.aspect_ratios]

    def _grid_default_boxes(
        self, grid_sizes: Sequence[Sequence[int]], image_size: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """[M, 4] as (cx, cy, w, h), fractions of the image."""
        levels = []
        for k, (rows, columns) in enumerate(grid_sizes):
            down, right = float(rows), float(columns)
            if self.steps is not None:
                down, right = image_size[0] / self.steps[k], image_size[1] / self.steps[k]
            x = ((torch.arange(columns) + 0.5) / right).to(dtype)
            y = ((torch.arange(rows) + 0.5) / down).to(dtype)
            y, x = torch.meshgrid(y, x, indexing="ij")
            sides = self._wh_pairs[k].clamp(min=0, max=1) if self.clip else self._wh_pairs[k]
            centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2).expand(-1, len(sides), -1)
            levels.append(torch.cat([centres, sides.expand(len(centres), -1, -1)], dim=-1).reshape(-1, 4))
        return torch.cat(levels)

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        image_size = image_list.tensors.shape[-2:]
        fractions = self._grid_default_boxes([f.shape[-2:] for f in feature_maps], image_size, feature_maps[0].dtype)
        fractions = fractions.to(feature_maps[0].device)
        extent = torch.tensor([image_size[1], image_size[0]], device=fractions.device)
        centre, side = fractions[:, :2], fractions[:, 2:]
        boxes = torch.cat([(centre - 0.5 * side) * extent, (centre + 0.5 * side) * extent], dim=-1)
        return _per_image(image_list, boxes)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(aspect_ratios={self.aspect_ratios}, clip={self.clip}, scales={self.scales}, "
            f"steps={self.steps})"
        )
