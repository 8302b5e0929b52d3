"""Spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes
from fastvision.testing.cases.roi.common import odd_rois

LEVELS = (1, 2, 3, 6)


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 20, 13, 17).to(device, dtype)
    rois = data.random_rois(9, 2, 52.0, 68.0).to(device)
    yield Sample("whole images", (features, LEVELS))
    yield Sample("strided", (features[:, ::3, 1:, ::2], (4, 1)))
    last = features.to(memory_format=torch.channels_last)
    yield Sample("channels_last", (last, LEVELS))
    wide = data.feature_map(2, 48, 12, 9).to(device, dtype).to(memory_format=torch.channels_last)
    yield Sample("channels_last, whole vectors", (wide, LEVELS))
    yield Sample(
        "channels_last, whole vectors, rois", (wide, (3, 2)), {"rois": data.random_rois(5, 2, 12.0, 9.0).to(device)}
    )
    yield Sample("more bins than pixels", (features[:, :, :2, :3], (7,)))
    yield Sample("equal maxima", (features.sign(), LEVELS))
    yield Sample("rois", (features, LEVELS), {"rois": rois, "spatial_scale": 0.25})
    yield Sample("odd rois", (features, (4, 3), odd_rois(device)), {"spatial_scale": 0.25})
    yield Sample("list of boxes", (features, (4,), [rois[:3, 1:], rois[3:, 1:]]), {"spatial_scale": 0.25})
    yield Sample("no rois", (features, LEVELS, rois[:0]))
    yield Sample("empty batch", (features[:0], LEVELS))


def _gradients(device: torch.device) -> Iterator[Sample]:
    """Values far enough apart for finite differences not to change the maximum."""
    order = torch.randperm(2 * 3 * 7 * 6, generator=data.generator(3))
    features = (order.double() / 10).reshape(2, 3, 7, 6).to(device)
    rois = data.random_rois(3, 2, 7.0, 6.0).to(device, torch.float64)
    yield Sample("whole images", (features, (1, 3)))
    yield Sample("rois", (features, (2, 3), rois))
    yield Sample("channels_last", (features.to(memory_format=torch.channels_last), (4, 2)))


def _work(sample: Sample) -> Work:
    features, levels = sample.args[:2]
    rois = sample.args[2] if len(sample.args) > 2 else sample.kwargs.get("rois")
    out = len(features if rois is None else rois) * features.shape[1] * sum(n * n for n in levels)
    return Work(nbytes(features) + out * (features.element_size() + 4), features.numel() * len(levels))


CASES = (
    OpCase(
        "spatial_pyramid_pool",
        ops.spatial_pyramid_pool,
        ("roi_pool", "roi_pool_backward"),
        _samples,
        _work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
