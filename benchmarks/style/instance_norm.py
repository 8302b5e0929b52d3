"""Instance normalisation with ReLU at two depths of a generator, also with many styles, and total variation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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
STYLES = 16  # of the conditional one

_Op = Callable[..., Tensor]


def workloads(options: Options) -> Iterator[Workload]:
    """Targets on the CPU, against torch's own instance_norm followed by its relu."""
    for shape in SHAPES:
        for channels_last in (False, True):
            yield _instance_norm(options, shape, channels_last, backward=False)
            yield _instance_norm(options, shape, channels_last, backward=True)
    for channels_last in (False, True):
        yield _instance_norm(options, SHAPES[1], channels_last, backward=False, styles=STYLES)
        yield _instance_norm(options, SHAPES[1], channels_last, backward=True, styles=STYLES)
    yield _total_variation(options)


def _torchs(input: Tensor, weight: Tensor, bias: Tensor, style: Tensor | None = None) -> Tensor:
    if style is None:
        return F.relu(F.instance_norm(input, weight=weight, bias=bias))
    return F.relu(F.instance_norm(input) * weight[style, :, None, None] + bias[style, :, None, None])


def _ours(input: Tensor, weight: Tensor, bias: Tensor, style: Tensor | None = None) -> Tensor:
    return ops.instance_norm(input, weight, bias, style=style, activation="relu")


def _instance_norm(
    options: Options, shape: tuple[int, ...], channels_last: bool, *, backward: bool, styles: int = 0
) -> Workload:
    """styles: so many to choose from for each image; 0: one for all."""
    n, channels, height, width = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    size = (styles, channels) if styles else (channels,)
    tensors = [data.feature_map(n, channels, height, width), torch.ones(size), torch.zeros(size)]
    tensors = [t.to(options.device) for t in tensors]
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    style = torch.arange(n, device=options.device) * (styles // n) if styles else None
    rivals: dict[str, _Op] = {OURS: _ours, TORCH: _torchs}
    if options.reference(small=False):
        rivals[COMPILED] = torch.compile(_torchs, dynamic=False)
    sample = Sample("", tuple(tensors), {"style": style})
    kind = f" of {styles} styles" if styles else ""
    name = f"instance_norm + ReLU{kind} {'forward and backward' if backward else 'forward'}"
    name = f"{name} {'channels_last' if channels_last else 'NCHW'}, {'x'.join(map(str, shape))}"
    work = case("instance_norm").work(sample)
    if backward:  # the forward, and two maps read and one written
        work = Work(work.bytes * 5 // 2, work.flops * 3)
    targets: dict[str, float] = {} if options.cuda else {TORCH: 2.5}
    contenders = {label: _call(partial(op, style=style), tensors, backward=backward) for label, op in rivals.items()}
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
