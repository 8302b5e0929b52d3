"""RoIAlign of rotated regions."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample
from fastvision.testing.cases.roi.common import pooling_work


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 20, 25, 31).to(device, dtype)
    rois = data.random_rotated_rois(9, 2, 100.0, 124.0).to(device)
    for ratio in (2, 3, 0):
        for aligned in (True, False):
            yield Sample(
                f"ratio {ratio} aligned {aligned}", (features, rois, (7, 5), 0.25, ratio), {"aligned": aligned}
            )
    yield Sample("clockwise", (features, rois, (2, 3), 0.25, 2), {"clockwise": True})
    last = features.to(memory_format=torch.channels_last)
    yield Sample("channels_last", (last, rois, 7, 0.25, 2))
    wide = data.feature_map(1, 32, 12, 9).to(device, dtype).to(memory_format=torch.channels_last)
    yield Sample(
        "channels_last, whole vectors", (wide, data.random_rotated_rois(5, 1, 12.0, 9.0).to(device), 2, 1.0, 2)
    )
    yield Sample("strided", (features[:, ::3, 1:, ::2], rois, 4, 0.25, 2))
    yield Sample("list of boxes", (features, [rois[:3, 1:], rois[3:, 1:]], 4, 0.25, 2))
    yield Sample("no rois", (features, rois[:0], 7, 0.25, 2))
    yield Sample("one pixel", (features[:, :, :1, :1], rois, 3, 0.01, 2))
    nan, inf = float("nan"), float("inf")
    odd = torch.tensor(
        [
            [0, -50, -50, 10, 10, 30],
            [1, 5, 5, 0, 0, 30],
            [0, 20, 20, -10, -8, 30],
            [1, 15, 15, 100, 130, 77],
            [0, nan, 5, 9, 9, 10],
            [1, 5, 5, inf, 9, 10],
            [1, 5, 5, 9, 9, nan],
            [0, 5, 5, 9, 9, -inf],
        ]
    )
    yield Sample("odd rois", (features, odd.to(device), 3, 1.0, 2))
    yield Sample("odd rois, adaptive", (features, odd.to(device), 3, 1.0, 0))


def _gradients(device: torch.device) -> Iterator[Sample]:
    features = data.feature_map(2, 3, 7, 6).to(device, torch.float64)
    rois = data.random_rotated_rois(4, 2, 7.0, 6.0).to(device, torch.float64)
    yield Sample("ratio 2", (features, rois, 3, 1.0, 2))
    yield Sample("adaptive", (features, rois, (2, 4), 0.5, 0))


CASES = (
    OpCase(
        "roi_align_rotated",
        ops.roi_align_rotated,
        ("roi_align_rotated", "roi_align_rotated_backward"),
        _samples,
        pooling_work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
