"""RoIAlign on a feature pyramid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes

SCALES = (1 / 4, 1 / 8, 1 / 16)


def _pyramid(device: torch.device, dtype: torch.dtype, channels: int = 20) -> list[Tensor]:
    """Levels 2 to 4 of two images of 100 x 124 pixels."""
    return [data.feature_map(2, channels, 25 >> i, 31 >> i, seed=i).to(device, dtype) for i in range(3)]


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    maps, rois = _pyramid(device, dtype), data.random_rois(12, 2, 100.0, 124.0).to(device)
    small: dict[str, Any] = {"spatial_scales": SCALES, "canonical_scale": 40}
    for ratio, aligned in ((2, False), (3, True), (0, True)):
        yield Sample(f"ratio {ratio}", (maps, rois, (7, 5)), {**small, "sampling_ratio": ratio, "aligned": aligned})
    last = [m.to(memory_format=torch.channels_last) for m in maps]
    yield Sample("channels_last", (last, rois, 3), {**small, "sampling_ratio": 2})
    whole = [m.to(memory_format=torch.channels_last) for m in _pyramid(device, dtype, 32)]
    yield Sample("channels_last, whole vectors", (whole, rois, 3), {**small, "sampling_ratio": 2})
    yield Sample("mixed layouts", ([whole[0], whole[1].contiguous(), whole[2]], rois, 3), {**small})
    yield Sample("all on one level", (maps, rois, 2), {"spatial_scales": SCALES, "canonical_scale": 4000})
    yield Sample("list of boxes", (maps, [rois[:5, 1:], rois[5:, 1:]], 2), small)
    yield Sample("one map", (maps[1:2], rois, 2), {"spatial_scales": [0.125], "sampling_ratio": 2})
    yield Sample("no rois", (maps, rois[:0], 2), small)
    odd = torch.tensor(
        [
            [0, -50, -50, -40, -40],
            [1, 5, 5, 5, 5],
            [0, 60, 20, 10, 8],
            [1, 60, 8, 10, 20],
            [1, -300, -300, 400, 400],
            [0, float("nan"), 1, 9, 9],
            [1, 1, 1, float("inf"), 9],
        ]
    )
    yield Sample("outside, empty, inverted, larger, nan, inf", (maps, odd.to(device), 2), small)


def _gradients(device: torch.device) -> Iterator[Sample]:
    maps = [data.feature_map(2, 3, 8 >> i, 6 >> i, seed=i).to(device, torch.float64) for i in range(2)]
    rois = data.random_rois(5, 2, 32.0, 24.0).to(device, torch.float64)
    kwargs: dict[str, Any] = {"spatial_scales": [0.25, 0.125], "canonical_scale": 20, "canonical_level": 3}
    yield Sample("ratio 2", (maps, rois, 2), {**kwargs, "sampling_ratio": 2})
    yield Sample("adaptive", (maps, rois, (2, 3)), {**kwargs, "aligned": True})


def _box_gradients(sample: Sample) -> Sample:
    return Sample(sample.name, sample.args, {**sample.kwargs, "box_gradients": True})


def _box_gradient_gradients(device: torch.device) -> Iterator[Sample]:
    """Lists of boxes: the image index of a roi is no number to differentiate by."""
    for sample in _gradients(device):
        maps, rois, size = sample.args
        yield _box_gradients(Sample(sample.name, (maps, data.boxes_of_images(rois, 2), size), sample.kwargs))


def _box_gradient_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Rois in the type they are computed in: the gradient has no one value where rounding crosses a kink."""
    maps = _pyramid(device, dtype)
    rois = data.random_rois(12, 2, 100.0, 124.0).to(device, torch.float64 if dtype == torch.float64 else torch.float32)
    kwargs: dict[str, Any] = {"spatial_scales": SCALES, "canonical_scale": 40, "sampling_ratio": 2}
    yield _box_gradients(Sample("ratio 2", (maps, rois, (3, 2)), kwargs))
    yield _box_gradients(Sample("no rois", (maps, rois[:0], 2), kwargs))
    yield _box_gradients(Sample("one map", (maps[1:2], rois, 2), {"spatial_scales": [0.125], "sampling_ratio": 2}))


def _work(sample: Sample) -> Work:
    features, rois, size = sample.args[:3]
    bins = size * size if isinstance(size, int) else size[0] * size[1]
    out = len(rois) * features[0].shape[1] * bins
    return Work(nbytes(*features) + out * features[0].element_size(), out * 32)


_OPS = ("multiscale_roi_align", "multiscale_roi_align_backward")
CASES = (
    OpCase(
        "multiscale_roi_align",
        ops.multiscale_roi_align,
        _OPS,
        _samples,
        _work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
    OpCase(
        "multiscale_roi_align",
        ops.multiscale_roi_align,
        (*_OPS, "multiscale_roi_align_box_gradients"),
        _box_gradient_samples,
        _work,
        gradient_samples=_box_gradient_gradients,
        differentiable=(0, 1),
        variant="box_gradients",
    ),
)
