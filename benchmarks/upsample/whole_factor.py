"""Upsampling: the top-down paths of pyramids and decoders, forward alone and with the gradient, both layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import memory_columns
from benchmarks.workload import COMPILED, OURS, REFERENCE, Options, Workload, case, close
from fastvision import ops, reference
from fastvision.testing import Sample, data

TORCH = "torch"
# images, channels, side and factor: a pyramid of an image of 800 x 800 (Lin et al. 2017), a decoder, and a head that
# returns to the image at once
SHAPES = ((1, 256, 50, 2), (1, 256, 100, 2), (4, 128, 64, 2), (1, 64, 56, 4))


def workloads(options: Options) -> Iterator[Workload]:
    """Targets on the CPU: against torch's own op, and where it has none against zeros and a strided copy."""
    for name, target in (("nearest_upsample", {TORCH: 1.2}), ("bed_of_nails_upsample", {REFERENCE: 1})):
        for shape in SHAPES:
            for layout in (torch.contiguous_format, torch.channels_last):
                for gradient in (False, True):
                    yield _upsample(name, shape, layout, gradient, {} if options.cuda else target, options)


def _by_torch(input: Tensor, factor: int) -> Tensor:
    return F.interpolate(input, scale_factor=factor, mode="nearest")


def _upsample(
    op: str,
    shape: tuple[int, int, int, int],
    layout: torch.memory_format,
    gradient: bool,
    target: dict[str, float],
    options: Options,
) -> Workload:
    images, channels, side, factor = shape
    features = data.feature_map(images, channels, side, side).to(options.device).to(memory_format=layout)
    plain = getattr(reference.upsample, op)
    calls: dict[str, Callable[..., Tensor]] = {OURS: getattr(ops, op)}
    if op == "nearest_upsample":
        calls[TORCH] = _by_torch
    if options.reference(small=op != "nearest_upsample"):
        calls[REFERENCE] = plain
    if options.reference(small=False):
        rival, label = (_by_torch, f"{TORCH} compiled") if TORCH in calls else (plain, COMPILED)
        calls[label] = torch.compile(rival, dynamic=False)
    grad = torch.randn_like(calls[OURS](features, factor))
    contenders = {label: _both_ways(call, features, factor, grad) if gradient else _forward(call, features, factor)
                  for label, call in calls.items()}  # fmt: skip
    format = "NCHW" if layout == torch.contiguous_format else "channels_last"
    name = f"{op} {'forward+backward' if gradient else 'forward'} {images}x{channels}x{side}^2 x{factor} {format}"
    work = None if gradient else case(op).work(Sample("", (features, factor)))
    tolerance = 1e-5 if gradient else 0
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("upsample", name, contenders, close(tolerance, tolerance), work, target, columns)


def _forward(op: Callable[..., Tensor], features: Tensor, factor: int) -> Callable[[], Any]:
    return lambda: op(features, factor)


def _both_ways(op: Callable[..., Tensor], features: Tensor, factor: int, grad: Tensor) -> Callable[[], Any]:
    leaf = features.detach().requires_grad_()

    def call() -> Any:
        output = op(leaf, factor)
        return output, *torch.autograd.grad(output, leaf, grad)

    return call
