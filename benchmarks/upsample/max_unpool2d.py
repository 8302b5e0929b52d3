"""Upsampling: the unpooling layers of DeconvNet, forward alone and with the gradient, both layouts."""

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
from fastvision.testing.cases.upsample.max_unpool2d import pooled

TORCH = "torch"
COMPILED = "torch compiled"  # "reference compiled" would be our own scatter
UNPOOLED = ((64, 224), (128, 112), (512, 28))  # channels and side of the output (Noh et al. 2015, table 2)
FORMS = (
    (torch.float32, torch.contiguous_format),
    (torch.float32, torch.channels_last),
    (torch.float64, torch.contiguous_format),
)


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torch's own ops, on the CPU."""
    for channels, side in UNPOOLED:
        for dtype, layout in FORMS:
            features = data.feature_map(1, channels, side, side).to(options.device, dtype, memory_format=layout)
            for gradient in (False, True):
                yield _unpool(features, gradient, options)


def _unpool(features: Tensor, gradient: bool, options: Options) -> Workload:
    """Both ways, the gradient flows back from a map that is there before the clock starts."""
    values, switches = pooled(features, 2)
    grad = torch.ones_like(features)
    calls: dict[str, Callable[..., Tensor]] = {OURS: ops.max_unpool2d, TORCH: F.max_unpool2d}
    if options.reference(small=False):
        calls[REFERENCE] = reference.upsample.max_unpool2d
        calls[COMPILED] = torch.compile(F.max_unpool2d, dynamic=False)
    contenders = {label: _both_ways(op, values, switches, grad) if gradient else _forward(op, values, switches)
                  for label, op in calls.items()}  # fmt: skip
    _, channels, side, _ = values.shape
    layout = "NCHW" if features.is_contiguous() else "channels_last"
    dtype = "" if features.dtype == torch.float32 else " " + str(features.dtype).removeprefix("torch.")
    name = f"max_unpool2d {'forward+backward' if gradient else 'forward'} 1x{channels}x{side}^2 {layout}{dtype}"
    work = None if gradient else case("max_unpool2d").work(Sample("", (values, switches, 2)))
    wanted = 2 if features.dtype == torch.float32 else 1
    targets: dict[str, float] = {} if options.cuda or gradient else {TORCH: wanted}
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("upsample", name, contenders, close(0, 0), work, targets, columns)


def _forward(op: Callable[..., Tensor], values: Tensor, switches: Tensor) -> Callable[[], Any]:
    return lambda: op(values, switches, 2)


def _both_ways(op: Callable[..., Tensor], values: Tensor, switches: Tensor, grad: Tensor) -> Callable[[], Any]:
    leaf = values.detach().requires_grad_()

    def call() -> Any:
        output = op(leaf, switches, 2)
        return output, *torch.autograd.grad(output, leaf, grad)

    return call
