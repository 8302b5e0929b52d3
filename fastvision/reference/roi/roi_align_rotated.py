"""RoIAlign of rotated regions in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastvision.reference.roi.rois import to_rois, to_size


def roi_align_rotated(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Sequence[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    aligned: bool = True,
    clockwise: bool = False,
) -> Tensor:
    """[N, C, H, W], [K, 6] -> [K, C, P, Q]: one gather of all samples, or one a roi where their number is its own."""
    height, width = to_size(output_size)
    work = torch.float64 if input.dtype == torch.float64 else torch.float32
    features, rois = input.to(work), to_rois(boxes, input, 5).detach().to(work)
    centre = rois[:, 1:3] * spatial_scale - (0.5 if aligned else 0.0)
    size = rois[:, 3:5] * spatial_scale
    if not aligned:
        size = size.clamp(min=1)
    turn = turns(-rois[:, 5] if clockwise else rois[:, 5])
    if sampling_ratio > 0:
        return pool(features, rois, centre, size, turn, (height, width), (sampling_ratio, sampling_ratio)).to(input)
    pooled = [input.new_zeros(0, input.shape[1], height, width) + 0 * input.sum()]
    for k in range(len(rois)):
        one = slice(k, k + 1)
        samples = [s if math.isfinite(s) else 0 for s in (size[k, 1].item() / height, size[k, 0].item() / width)]
        counts = (max(math.ceil(samples[0]), 0), max(math.ceil(samples[1]), 0))
        pooled.append(pool(features, rois[one], centre[one], size[one], turn[one], (height, width), counts).to(input))
    return torch.cat(pooled)


def turns(degrees: Tensor) -> Tensor:
    """[K] -> [K, 2] cosine and sine, exact at quarter turns."""
    turned = degrees.double() % 360
    quarter = turned % 90 == 0
    radians = turned * (math.pi / 180)
    pair = torch.stack([radians.cos(), radians.sin()], 1)
    return torch.where(quarter[:, None], pair.round(), pair).to(degrees.dtype)


def pool(
    features: Tensor,
    rois: Tensor,
    centre: Tensor,
    size: Tensor,
    turn: Tensor,
    bins: tuple[int, int],
    samples: tuple[int, int],
) -> Tensor:
    """Means of ``samples`` bilinear samples along each axis of a bin; zero outside [-1, size] of the map."""
    (n, channels, height, width), count = features.shape, len(rois)

    def offsets(length: Tensor, bins: int, samples: int) -> Tensor:
        """[K] -> [K, bins * samples] positions along an axis, from the centre."""
        step = torch.arange(bins * samples, dtype=length.dtype, device=length.device)
        bin_length = length[:, None] / bins
        place = (step // max(samples, 1)) * bin_length
        return -length[:, None] / 2 + place + (step % max(samples, 1) + 0.5) * bin_length / max(samples, 1)

    v = offsets(size[:, 1], bins[0], samples[0])[:, :, None]
    u = offsets(size[:, 0], bins[1], samples[1])[:, None, :]
    cosine, sine = turn[:, 0, None, None], turn[:, 1, None, None]
    y = v * cosine - u * sine + centre[:, 1, None, None]
    x = v * sine + u * cosine + centre[:, 0, None, None]
    finite = rois.isfinite().all(1)[:, None, None]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width) & finite
    y = torch.where(inside, y, 0).clamp(0, height - 1)
    x = torch.where(inside, x, 0).clamp(0, width - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    fy, fx = y - top, x - left
    image = rois[:, 0].nan_to_num().long().clamp(0, max(n - 1, 0))[:, None, None]
    flat = features.permute(0, 2, 3, 1)  # [N, H, W, C]

    def at(row: Tensor, column: Tensor, weight: Tensor) -> Tensor:
        return flat[image, row, column] * (weight * inside)[..., None]

    sampled = at(top, left, (1 - fy) * (1 - fx)) + at(top, right, (1 - fy) * fx)
    sampled = sampled + at(bottom, left, fy * (1 - fx)) + at(bottom, right, fy * fx)
    grid = sampled.view(count, bins[0], samples[0], bins[1], samples[1], channels)
    return (grid.sum((2, 4)) / max(samples[0] * samples[1], 1)).permute(0, 3, 1, 2)
