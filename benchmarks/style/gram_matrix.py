"""Gram matrix and style loss with their gradient, at the sizes of VGG's first four stages on a 256 x 256 image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.graphs import graphed
from benchmarks.memory import memory_columns
from benchmarks.workload import COMPILED, OURS, REFERENCE, Options, Workload, case, close
from fastvision import ops, reference
from fastvision.testing import Sample, Work, data

BMM = "torch.bmm"
ONE_PRODUCT = "torch.bmm, one product back"

# (channels, side): how many times torch.bmm's speed
TARGETS = {(64, 256): 4.0, (128, 128): 2.5, (256, 64): 2.0, (512, 32): 2.0}

# channels and sides of VGG's first ReLU of each stage on a 256 x 256 image (Gatys et al. 2016, section 2)
FIVE_LAYERS = [(64, 256), (128, 128), (256, 64), (512, 32), (512, 16)]

_Loss = Callable[[list[Tensor], list[Tensor]], Tensor]


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against ``torch.bmm`` under autograd in the same layout, on the CPU."""
    for size, target in TARGETS.items():
        for channels_last in (False, True):
            yield _style_loss(options, [size], channels_last, target, f"{size[0]} x {size[1]}^2")
    yield _style_loss(options, FIVE_LAYERS, False, None, "five layers")
    if options.cuda:
        yield _graphed_style_loss(options)
    for channels_last in (False, True):
        yield _gram(options, channels_last)


class _OneProduct(torch.autograd.Function):
    """What a careful user of torch writes: the gradient of a Gram matrix is one product, not two."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        rows = features.flatten(2)
        ctx.scale = 1 / rows[0].numel()
        return torch.bmm(rows, rows.transpose(1, 2)) * ctx.scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        return torch.bmm((grad + grad.transpose(1, 2)) * ctx.scale, features.flatten(2)).view_as(features)


def _by_bmm(features: list[Tensor], targets: list[Tensor]) -> Tensor:
    loss = features[0].new_zeros(())
    for feature, target in zip(features, targets, strict=True):
        loss = loss + (_gram_by_bmm(feature) - target).square().sum() / len(feature)
    return loss


def _by_one_product(features: list[Tensor], targets: list[Tensor]) -> Tensor:
    grams = [_OneProduct.apply(f) for f in features]
    return torch.stack([(g - t).square().sum() / len(g) for g, t in zip(grams, targets, strict=True)]).sum()


def _style_loss(
    options: Options, sizes: list[tuple[int, int]], channels_last: bool, target: float | None, name: str
) -> Workload:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features, targets = _layers(options, sizes, layout)
    rivals: dict[str, _Loss] = {OURS: ops.style_loss, BMM: _by_bmm, ONE_PRODUCT: _by_one_product}
    if options.reference(small=False):
        rivals[REFERENCE] = reference.style.style_loss
        rivals[COMPILED] = torch.compile(_by_bmm, dynamic=False)
    contenders = {label: _both_ways(loss, features, targets) for label, loss in rivals.items()}
    work = case("style_loss").work(Sample("", (features, targets)))
    work = Work(3 * work.bytes, 3 * work.flops)  # read twice, the gradient written; one full product more
    if options.cuda:
        target = 8.0 if sizes == FIVE_LAYERS else None
    goal = {} if target is None else {BMM: target}
    label = f"style_loss forward and backward, {name} {'channels_last' if channels_last else 'NCHW'}"
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("style", label, contenders, close(1e-3, 1e-6), work, goal, columns)


def _layers(
    options: Options, sizes: list[tuple[int, int]], layout: torch.memory_format
) -> tuple[list[Tensor], list[Tensor]]:
    """Feature maps of one image, and the Gram matrices of others."""
    # about as correlated as a network's: a Gram matrix of noise alone is nearly diagonal
    features = [
        data.feature_map(1, c, s, s).relu().to(options.device).contiguous(memory_format=layout) for c, s in sizes
    ]
    return features, [ops.gram_matrix(f.flip(3).roll(1, 1)) for f in features]


def _graphed_style_loss(options: Options) -> Workload:
    """Five layers, every contender recorded in a CUDA graph: the device's time alone."""
    features, targets = _layers(options, FIVE_LAYERS, torch.contiguous_format)
    losses: dict[str, _Loss] = {OURS: ops.style_loss, BMM: _by_bmm}
    if not options.quick:
        losses[COMPILED] = torch.compile(_by_bmm, dynamic=False)
    contenders = {label: graphed(_both_ways(loss, features, targets)) for label, loss in losses.items()}
    name = "style_loss forward and backward, five layers NCHW, CUDA graphs"
    return Workload("style", name, contenders, close(1e-3, 1e-6), targets={COMPILED: 2.0})


def _both_ways(loss: _Loss, features: list[Tensor], targets: list[Tensor]) -> Callable[[], Any]:
    leaves = [f.clone(memory_format=torch.preserve_format).requires_grad_() for f in features]

    def both() -> Any:
        value = loss(leaves, targets)
        return value, *torch.autograd.grad(value, leaves)

    return both


def _gram(options: Options, channels_last: bool) -> Workload:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = data.feature_map(1, 64, 256, 256).to(options.device).contiguous(memory_format=layout)
    rivals: dict[str, Callable[[Tensor], Tensor]] = {OURS: ops.gram_matrix, BMM: _gram_by_bmm}
    if options.reference(small=False):
        rivals[COMPILED] = torch.compile(_gram_by_bmm, dynamic=False)
    contenders = {label: _forward(op, features) for label, op in rivals.items()}
    work = case("gram_matrix").work(Sample("", (features,)))
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    name = f"gram_matrix 64 x 256^2 {'channels_last' if channels_last else 'NCHW'}"
    return Workload("style", name, contenders, close(1e-4, 1e-6), work, columns=columns)


def _gram_by_bmm(features: Tensor) -> Tensor:
    rows = features.flatten(2)
    return torch.bmm(rows, rows.transpose(1, 2)) / rows[0].numel()


def _forward(op: Callable[[Tensor], Tensor], features: Tensor) -> Callable[[], Any]:
    return lambda: op(features)
