"""Content loss of feature maps."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes


def _layers(device: torch.device, dtype: torch.dtype, seed: int) -> list[Tensor]:
    shapes = ((2, 4, 9, 11), (2, 6, 5, 5))
    return [data.feature_map(*shape, seed=seed + i).to(device, dtype) for i, shape in enumerate(shapes)]


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features, targets = _layers(device, dtype, 0), _layers(device, dtype, 7)
    yield Sample("one layer", (features[0], targets[0]))
    yield Sample("layers", (features, targets))
    yield Sample("weighted", (features, targets, [0.5, 2.0]))
    yield Sample("strided", (features[0][:, ::2, 1:], targets[0][:, ::2, 1:], [3.0]))
    yield Sample("no images", (features[0][:0], targets[0][:0]))


def _gradients(device: torch.device) -> Iterator[Sample]:
    features, targets = _layers(device, torch.float64, 0), _layers(device, torch.float64, 7)
    yield Sample("weighted", ([t[:, :2, :3, :3] for t in features], [t[:, :2, :3, :3] for t in targets], [0.5, 2.0]))


def _work(sample: Sample) -> Work:
    tensors = [sample.args[i] if isinstance(sample.args[i], list) else [sample.args[i]] for i in (0, 1)]
    return Work(nbytes(*tensors[0], *tensors[1]), 3 * sum(t.numel() for t in tensors[0]))


CASES = (
    OpCase(
        "content_loss",
        ops.content_loss,
        (),
        _samples,
        _work,
        gradient_samples=_gradients,
        differentiable=(0, 1),
        linear=True,
    ),
)
