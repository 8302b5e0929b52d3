"""Upsampling: the top-down paths of pyramids and decoders, forward alone and with the gradient, both layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import memory_columns
from benchmarks.workload import OURS, REFERENCE, Options, Workload, case, close
from fastvision import ops, reference
from fastvision.testing import Sample, data

TORCH = "torch"
# images, channels, side and factor: a pyramid of an image of 800 x 800 (Lin et al. 2017), a decoder, and a head that
# returns to the image at once
SHAPES = ((1, 256, 50, 2), (1, 256, 100, 2), (4, 128, 64, 2), (1, 64, 56, 4))


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torch's own op, on the CPU, by what is repeated rather than looked up."""
    for images, channels, side, factor in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            features = data.feature_map(images, channels, side, side).to(options.device).to(memory_format=layout)
            for gradient in (False, True):
                yield _upsample(features, factor, gradient, options)


def _by_torch(input: Tensor, factor: int) -> Tensor:
    return F.interpolate(input, scale_factor=factor, mode="nearest")


def _upsample(features: Tensor, factor: int, gradient: bool, options: Options) -> Workload:
    calls: dict[str, Callable[..., Tensor]] = {OURS: ops.nearest_upsample, TORCH: _by_torch}
    if options.reference(small=False):
        calls[REFERENCE] = reference.upsample.nearest_upsample
        calls["torch compiled"] = torch.compile(_by_torch, dynamic=False)
    grad = torch.randn_like(_by_torch(features, factor))
    contenders = {label: _both_ways(op, features, factor, grad) if gradient else _forward(op, features, factor)
                  for label, op in calls.items()}  # fmt: skip
    images, channels, side, _ = features.shape
    layout = "NCHW" if features.is_contiguous() else "channels_last"
    name = f"nearest_upsample {'forward+backward' if gradient else 'forward'} {images}x{channels}x{side}^2 x{factor}"
    work = None if gradient else case("nearest_upsample").work(Sample("", (features, factor)))
    targets: dict[str, float] = {} if options.cuda else {TORCH: 1.2}
    tolerance = 1e-5 if gradient else 0
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("upsample", f"{name} {layout}", contenders, close(tolerance, tolerance), work, targets, columns)


def _forward(op: Callable[..., Tensor], features: Tensor, factor: int) -> Callable[[], Any]:
    return lambda: op(features, factor)


def _both_ways(op: Callable[..., Tensor], features: Tensor, factor: int, grad: Tensor) -> Callable[[], Any]:
    leaf = features.detach().requires_grad_()

    def call() -> Any:
        output = op(leaf, factor)
        return output, *torch.autograd.grad(output, leaf, grad)

    return call
