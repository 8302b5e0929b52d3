"""Max pooling that remembers places."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 5, 23, 26).to(device, dtype)
    yield Sample("plain", (features, (2, 2)))
    yield Sample("channels_last", (features.to(memory_format=torch.channels_last), 2))
    yield Sample("overlapping", (features, 3, 2, 1))
    yield Sample("oblong", (features, (3, 2), (1, 2), (1, 0)))
    yield Sample("dilated", (features, 2, 1, 0, 2))
    yield Sample("ceil mode", (features, 3, 2, 1, 1, True))
    yield Sample("one image", (features[0], 2))
    yield Sample("equal values", ((features * 2).round(), 3, 2))
    yield Sample("no images", (features[:0], 2))


def _work(sample: Sample) -> Work:
    features = sample.args[0]
    pooled = ops.max_pool2d_with_indices(*sample.args, **sample.kwargs)
    return Work(nbytes(features, *pooled), 0)


_NAME = "max_pool2d_with_indices"
CASES = (OpCase(_NAME, ops.max_pool2d_with_indices, (_NAME,), _samples, _work, gradients_elsewhere=True),)
