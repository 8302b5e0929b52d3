"""Max unpooling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes


def pooled(features: Tensor, *how: Any) -> tuple[Tensor, Tensor]:
    """Values that differ from the largest ones of their windows, and the windows' switches."""
    values, switches = ops.max_pool2d_with_indices(features, *how)
    return values * 0.5 - 0.25, switches


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 20, 12, 18).to(device, dtype)
    values, switches = pooled(features, 2)
    yield Sample("plain", (values, switches, 2))
    last = features.to(memory_format=torch.channels_last)
    yield Sample("channels_last", (*pooled(last, 2), 2))
    yield Sample("one format each", (values, switches.to(memory_format=torch.channels_last), 2))
    yield Sample("strided", (values[:, ::3, 1:, ::2], switches[:, ::3, 1:, ::2], (2, 4), (2, 4), 0, (11, 20)))
    yield Sample("strided, one below another", (values[:, :, ::2], switches[:, :, ::2].int(), (4, 2)))
    yield Sample("overlapping", (*pooled(features, 3, 2), 3, 2, 0, (12, 18)))
    yield Sample("overlapping, channels_last", (*pooled(last, 3, 2, 1), 3, 2, 1, (2, 20, 12, 18)))
    yield Sample("one image, odd sizes", (*pooled(features[0, :, 1:, 1:], 2), 2, 2, 0, (11, 17)))
    yield Sample("odd sizes, channels_last", (*pooled(last[:, :, 1:, 1:], 2), 2, None, 0, (11, 17)))
    yield Sample("one pixel", (values[:, :, :1, :1], switches[:, :, :1, :1] * 0, 1))
    yield Sample("no images", (values[:0], switches[:0], 2))
    yield Sample("int32", (values, switches.int(), 2))


def _gradients(device: torch.device) -> Iterator[Sample]:
    features = data.feature_map(2, 3, 6, 7).to(device, torch.float64)
    yield Sample("plain", (*pooled(features, 2), 2, 2, 0, (6, 7)))
    yield Sample("overlapping", (*pooled(features, 3, 2), 3, 2, 0, (6, 7)))
    yield Sample("channels_last", (*pooled(features.to(memory_format=torch.channels_last), 3, 1), 3, 1))


def _work(sample: Sample) -> Work:
    out = ops.max_unpool2d(*sample.args, **sample.kwargs)
    return Work(nbytes(*sample.args[:2], out), 0)


CASES = (
    OpCase(
        "max_unpool2d",
        ops.max_unpool2d,
        ("max_unpool2d", "max_unpool2d_backward"),
        _samples,
        _work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
