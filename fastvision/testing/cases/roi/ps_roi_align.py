"""Position-sensitive RoIAlign."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample
from fastvision.testing.cases.roi.common import odd_rois, position_sensitive_work


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 3 * 6, 25, 31).to(device, dtype)
    rois = data.random_rois(9, 2, 100.0, 124.0).to(device)
    yield Sample("plain", (features, rois, (3, 2), 0.25, 2))
    yield Sample("adaptive", (features, rois, (2, 3), 0.25, 0))
    last = features.to(memory_format=torch.channels_last)
    yield Sample("channels_last", (last, rois, 3, 0.25))
    many = data.feature_map(1, 20 * 4, 12, 9).to(device, dtype)
    yield Sample("more than a vector of channels", (many, data.random_rois(5, 1, 12.0, 9.0).to(device), 2))
    yield Sample("strided", (features[:, ::3, 1:, ::2], rois, (1, 2), 0.25))
    yield Sample("list of boxes", (features, [rois[:3, 1:], rois[3:, 1:]], 3, 0.25))
    yield Sample("no rois", (features, rois[:0], 3, 0.25))
    yield Sample("one pixel", (features[:, :, :1, :1], rois, 3, 0.01))
    yield Sample("odd rois", (features, odd_rois(device), 3, 0.25, 2))


def _gradients(device: torch.device) -> Iterator[Sample]:
    features = data.feature_map(2, 12, 7, 6).to(device, torch.float64)
    rois = data.random_rois(4, 2, 7.0, 6.0).to(device, torch.float64)
    yield Sample("plain", (features, rois, 2, 1.0, 2))
    yield Sample("channels_last", (features.to(memory_format=torch.channels_last), rois, (2, 3), 0.5))


CASES = (
    OpCase(
        "ps_roi_align",
        ops.ps_roi_align,
        ("ps_roi_align", "ps_roi_align_backward"),
        _samples,
        position_sensitive_work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
