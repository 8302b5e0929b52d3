"""Instance normalisation with ReLU at two depths of a generator, and total variation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import memory_columns
from benchmarks.workload import COMPILED, OURS, REFERENCE, Options, Workload, case, close
from fastvision import ops, reference
from fastvision.testing import Sample, Work, data

TORCH = "torch"
SHAPES = ((1, 64, 256, 256), (4, 128, 64, 64))

_Op = Callable[..., Tensor]


def workloads(options: Options) -> Iterator[Workload]:
    """Targets on the CPU, against torch's own instance_norm followed by its relu."""
    for shape in SHAPES:
        for channels_last in (False, True):
            yield _instance_norm(options, shape, channels_last, backward=False)
            yield _instance_norm(options, shape, channels_last, backward=True)
    yield _total_variation(options)


def _torchs(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.instance_norm(input, weight=weight, bias=bias))


def _ours(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return ops.instance_norm(input, weight, bias, activation="relu")


def _instance_norm(options: Options, shape: tuple[int, ...], channels_last: bool, *, backward: bool) -> Workload:
    n, channels, height, width = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = [data.feature_map(n, channels, height, width), torch.ones(channels), torch.zeros(channels)]
    tensors = [t.to(options.device) for t in tensors]
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    rivals: dict[str, _Op] = {OURS: _ours, TORCH: _torchs}
    if options.reference(small=False):
        rivals[COMPILED] = torch.compile(_torchs, dynamic=False)
    sample = Sample("", tuple(tensors))
    name = f"instance_norm + ReLU {'forward and backward' if backward else 'forward'}"
    name = f"{name} {'channels_last' if channels_last else 'NCHW'}, {'x'.join(map(str, shape))}"
    work = case("instance_norm").work(sample)
    if backward:  # the forward, and two maps read and one written
        work = Work(work.bytes * 5 // 2, work.flops * 3)
    targets: dict[str, float] = {} if options.cuda else {TORCH: 2.5}
    contenders = {label: _call(op, tensors, backward=backward) for label, op in rivals.items()}
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("style", name, contenders, close(1e-4, 1e-3), work, targets, columns)


def _call(op: _Op, tensors: list[Tensor], *, backward: bool) -> Callable[[], Any]:
    """One call, gradients of all its inputs included if wanted."""
    if not backward:
        return lambda: op(*tensors)
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    grad = torch.randn(tensors[0].shape, generator=data.generator(1)).to(tensors[0])
    if not tensors[0].is_contiguous():
        grad = grad.contiguous(memory_format=torch.channels_last)

    def both() -> tuple[Tensor, ...]:
        output = op(*leaves)
        return output, *torch.autograd.grad(output, leaves, grad)

    return both


def _total_variation(options: Options) -> Workload:
    images = data.feature_map(1, 3, 512, 512).to(options.device)
    rivals: dict[str, _Op] = {OURS: ops.total_variation_loss, REFERENCE: reference.style.total_variation_loss}
    if options.reference(small=False):
        rivals[COMPILED] = torch.compile(reference.style.total_variation_loss, dynamic=False)

    def call(op: _Op) -> Callable[[], Any]:
        leaf = images.clone().requires_grad_()

        def both() -> tuple[Tensor, ...]:
            loss = op(leaf)
            return loss, *torch.autograd.grad(loss, leaf)

        return both

    work = case("total_variation_loss").work(Sample("", (images,)))
    work = Work(3 * work.bytes, 2 * work.flops)  # read twice, the gradient written
    contenders = {label: call(op) for label, op in rivals.items()}
    name = "total_variation_loss forward and backward, 1x3x512x512"
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("style", name, contenders, close(1e-4, 1e-4), work, columns=columns)
