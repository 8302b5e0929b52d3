"""RoI max pooling."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample
from fastvision.testing.cases.roi.common import odd_rois, pooling_work


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 20, 25, 31).to(device, dtype)
    rois = data.random_rois(9, 2, 100.0, 124.0).to(device)
    yield Sample("plain", (features, rois, (7, 5), 0.25))
    last = features.to(memory_format=torch.channels_last)
    yield Sample("channels_last", (last, rois, 7, 0.25))
    wide = data.feature_map(1, 32, 12, 9).to(device, dtype).to(memory_format=torch.channels_last)
    yield Sample("channels_last, whole vectors", (wide, data.random_rois(5, 1, 12.0, 9.0).to(device), 2))
    yield Sample("strided", (features[:, ::3, 1:, ::2], rois, 4, 0.25))
    yield Sample("list of boxes", (features, [rois[:3, 1:], rois[3:, 1:]], 4, 0.25))
    yield Sample("no rois", (features, rois[:0], 7, 0.25))
    yield Sample("one pixel", (features[:, :, :1, :1], rois, 3, 0.01))
    yield Sample("equal values", ((features * 2).round() / 2, rois, 3, 0.25))
    yield Sample("odd rois", (features, odd_rois(device), 4, 0.25))
    yield Sample("more bins than pixels", (features, rois, 40, 0.25))


def _gradients(device: torch.device) -> Iterator[Sample]:
    features = data.feature_map(2, 3, 7, 6).to(device, torch.float64)
    rois = data.random_rois(4, 2, 7.0, 6.0).to(device, torch.float64)
    yield Sample("square", (features, rois, 3))
    yield Sample("channels_last", (features.to(memory_format=torch.channels_last), rois, (2, 4), 0.5))


CASES = (
    OpCase(
        "roi_pool",
        ops.roi_pool,
        ("roi_pool", "roi_pool_backward"),
        _samples,
        pooling_work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
