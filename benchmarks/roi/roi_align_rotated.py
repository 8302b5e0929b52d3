"""RoIAlign of rotated regions against what plain PyTorch can do: the reference compiled, and F.grid_sample."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.roi.common import Rivals, Setting, backward, forward
from benchmarks.workload import COMPILED, REFERENCE, Options, Workload
from fastvision import reference
from fastvision.testing import data

GRID_SAMPLE = "grid_sample"
_ONE_BY_ONE = "where the number of samples is a region's own, the reference goes region by region, for minutes"


def workloads(options: Options) -> Iterator[Workload]:
    """Target: 5 times the reference compiled, on the CPU."""
    aims = {} if options.cuda else {COMPILED: 5.0}
    large = (data.feature_map(2, 256, 200, 272), data.random_rotated_rois(512, 2, 800.0, 1088.0))
    fixed, adaptive = (Setting(*large, (7, 0.25, ratio), f"s={ratio}" if ratio else "adaptive") for ratio in (2, 0))
    for last in (False, True):
        yield forward("roi_align_rotated", fixed.on(options, last), _rivals(), aims)
    alone = Rivals(skipped={COMPILED: _ONE_BY_ONE})
    for last in (False, True):
        yield forward("roi_align_rotated", adaptive.on(options, last), alone)
    yield backward("roi_align_rotated", fixed.on(options, False), _rivals(), aims)
    small = Setting(
        data.feature_map(1, 256, 25, 25), data.random_rotated_rois(8, 1, 400.0, 400.0), (7, 1 / 16, 2), "s=2"
    )
    at_least = {} if options.cuda else {COMPILED: 1.0}  # few regions must not lose
    yield forward("roi_align_rotated", small.on(options, False), _rivals(), at_least)


def _rivals() -> Rivals:
    compiled = torch.compile(reference.roi.roi_align_rotated)
    return Rivals({COMPILED: compiled, GRID_SAMPLE: _grid_sample}, {REFERENCE: "compiled, it takes part"})


def _grid_sample(input: Tensor, rois: Tensor, size: int, scale: float, ratio: int) -> Tensor:
    """Image by image, all samples of its regions in one call; what lies beyond the outermost pixel is the border's."""
    pooled = input.new_empty(len(rois), input.shape[1], size, size)
    height, width = input.shape[2:]
    steps = (torch.arange(size * ratio, device=rois.device) + 0.5) / (size * ratio) - 0.5
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    for image in range(len(input)):
        (mine,) = torch.where(rois[:, 0] == image)
        _, cx, cy, w, h, degrees = (column[:, None, None] for column in rois[mine].unbind(1))
        angle = degrees * (math.pi / 180)
        y = v * h * scale * angle.cos() - u * w * scale * angle.sin() + cy * scale - 0.5
        x = v * h * scale * angle.sin() + u * w * scale * angle.cos() + cx * scale - 0.5
        inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1).flatten(1, 2)[None]
        sampled = F.grid_sample(input[image : image + 1], grid, padding_mode="border", align_corners=True)[0]
        bins = (sampled * inside.flatten(1)).view(-1, len(mine), size, ratio, size, ratio)
        pooled = pooled.index_copy(0, mine, bins.mean((3, 5)).transpose(0, 1))
    return pooled
