"""Pooling that remembers places: what DeconvNet's unpooling layers undo, forward alone and with the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import memory_columns
from benchmarks.upsample.max_unpool2d import COMPILED, TORCH, UNPOOLED
from benchmarks.workload import OURS, Options, Workload, case, close
from fastvision import ops
from fastvision.testing import Sample, data


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torch's own op, on the CPU, in planes: channels_last is its own."""
    for channels, side in UNPOOLED:
        for window in ((2, 2), (3, 2)) if channels == 64 else ((2, 2),):
            features = data.feature_map(1, channels, side, side).to(options.device)
            for gradient in (False, True):
                yield _pool(features, window, gradient, options)


def _pool(features: Tensor, window: tuple[int, int], gradient: bool, options: Options) -> Workload:
    calls: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
        OURS: ops.max_pool2d_with_indices,
        TORCH: F.max_pool2d_with_indices,
    }
    if options.reference(small=False):
        calls[COMPILED] = torch.compile(F.max_pool2d_with_indices, dynamic=False)
    grad = torch.randn_like(F.max_pool2d(features, *window))
    leaf = features.detach().requires_grad_()

    def contender(op: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], Any]:
        def both_ways() -> Any:
            values, places = op(leaf, *window)
            return values, places, *torch.autograd.grad(values, leaf, grad)

        return both_ways if gradient else lambda: op(features, *window)

    contenders = {label: contender(op) for label, op in calls.items()}
    _, channels, side, _ = features.shape
    passes = "forward+backward" if gradient else "forward"
    name = f"max_pool2d_with_indices {passes} 1x{channels}x{side}^2 {window[0]}^2 s{window[1]} NCHW"
    work = None if gradient else case("max_pool2d_with_indices").work(Sample("", (features, *window)))
    targets: dict[str, float] = {} if options.cuda else {TORCH: 1.5}
    # windows that overlap add to one pixel in an order of their own
    tolerance = 1e-5 if gradient else 0
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("upsample", name, contenders, close(tolerance, tolerance), work, targets, columns)
