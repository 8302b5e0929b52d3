"""The weight of bilinear interpolation."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing.case import OpCase, Sample, Work


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    like = {"dtype": dtype, "device": device}
    for factor in (1, 2, 3, 4, 8):
        yield Sample(f"{factor} times", (3, factor), like)
    yield Sample("dense", (3, 2), {**like, "groups": 1})
    yield Sample("grouped", (6, 3), {**like, "groups": 2})
    yield Sample("one channel", (1, 2), {**like, "groups": 1})
    yield Sample("no channels", (0, 2), {**like, "groups": 1})


def _work(sample: Sample) -> Work:
    channels, factor = sample.args
    inputs = channels // (sample.kwargs.get("groups") or channels)
    return Work(4 * channels * inputs * (2 * factor - factor % 2) ** 2, 0)


CASES = (OpCase("bilinear_kernel", ops.bilinear_kernel, (), _samples, _work, traceable=False),)
