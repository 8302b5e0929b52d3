"""Crops of images, warped to one size."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample
from fastvision.testing.cases.roi.common import odd_rois, pooling_work


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    images = data.feature_map(2, 3, 25, 31).to(device, dtype)
    rois = data.random_rois(9, 2, 25.0, 31.0).to(device)
    yield Sample("square", (images, rois, 12))
    yield Sample("context", (images, rois, (14, 12)), {"context": 3})
    yield Sample("mean of a channel", (images, rois, (14, 12)), {"context": 3, "mean": (0.5, -1.0, 2.0)})
    yield Sample("one mean", (images, rois, 7), {"mean": 0.25, "sampling_ratio": 1})
    yield Sample("channels_last", (images.to(memory_format=torch.channels_last), rois, 8), {"context": 2})
    yield Sample("list of boxes", (images, [rois[:3, 1:], rois[3:, 1:]], 4))
    yield Sample("no rois", (images, rois[:0], 7))
    yield Sample("strided", (images[:, ::2, 1:, ::2], rois, 4))
    yield Sample("odd rois", (images, odd_rois(device), 4), {"mean": 1.0, "sampling_ratio": 2})


def _gradients(device: torch.device) -> Iterator[Sample]:
    images = data.feature_map(2, 3, 7, 6).to(device, torch.float64)
    rois = data.random_rois(4, 2, 7.0, 6.0).to(device, torch.float64)
    yield Sample("own mean", (images, rois, 5), {"context": 1})
    yield Sample("given mean", (images, rois, (6, 4)), {"context": 1, "mean": (0.5, -1.0, 2.0)})


CASES = (
    OpCase(
        "crop_and_resize",
        ops.crop_and_resize,
        ("roi_align", "roi_align_backward"),
        _samples,
        pooling_work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
