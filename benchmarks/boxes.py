"""Boxes: overlaps and losses, matching, and the R-CNN parametrisation of a whole image's anchors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import (
    COMPILED,
    GRAPHED,
    OURS,
    REFERENCE,
    TORCHVISION,
    Options,
    Verdict,
    Workload,
    case,
    close,
    optional,
    torchvision_ops,
)
from fastvision import ops, reference
from fastvision.testing import Sample, Work, data

ANCHORS = 268_569  # of a Faster R-CNN with a feature pyramid on an 800 x 1344 image
WEIGHTS = (10.0, 10.0, 5.0, 5.0)

_Op = Callable[..., Any]


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torchvision, on the CPU."""
    pair = (data.random_boxes(50).to(options.device), data.random_boxes(20_000, seed=1).to(options.device))
    target: dict[str, float] = {} if options.cuda else {TORCHVISION: 10}
    torchvision = torchvision_ops()
    rivals = _rivals(reference.boxes.box_iou, torchvision.box_iou if torchvision else None, options)
    overlaps = {OURS: ops.box_iou, **rivals}
    work = case("box_iou").work(Sample("", pair))
    yield Workload("boxes", "box_iou 50 x 20k", _bind(overlaps, *pair), close(1e-5, 1e-6), work, target)
    gradients = {label: _with_gradient(op, *pair) for label, op in overlaps.items()}
    # the backward pass reads the gradient of every pair and does about twice the arithmetic
    both = Work(2 * work.bytes, 3 * work.flops)
    # a small box's gradient sums 20k terms up to 1 / its side
    yield Workload("boxes", "box_iou 50 x 20k, forward + backward", gradients, close(1e-3, 1e-4), both, target)
    yield from _relatives(pair, options)
    yield from _rotated(options)
    yield _matching(options)
    yield from _coding(options)


def _relatives(pair: tuple[Tensor, Tensor], options: Options) -> Iterator[Workload]:
    """The other overlaps, and the losses row by row: forward and backward, as training needs them."""
    torchvision = torchvision_ops()
    for name in ("generalized_box_iou", "complete_box_iou"):
        rivals = _rivals(getattr(reference.boxes, name), torchvision and getattr(torchvision, name), options)
        gradients = {label: _with_gradient(op, *pair) for label, op in {OURS: getattr(ops, name), **rivals}.items()}
        yield Workload("boxes", f"{name} 50 x 20k, forward + backward", gradients, close(1e-3, 2e-4))
    rows = data.random_boxes(10_000).to(options.device), data.random_boxes(10_000, seed=1).to(options.device)
    for name in ("generalized_box_iou_loss", "complete_box_iou_loss"):
        rivals = _rivals(getattr(reference.boxes, name), torchvision and getattr(torchvision, name), options)
        gradients = {label: _loss_gradient(op, *rows) for label, op in {OURS: getattr(ops, name), **rivals}.items()}
        yield Workload("boxes", f"{name} of 10k, forward + backward", gradients, close(1e-3, 1e-4))


def _rotated(options: Options) -> Iterator[Workload]:
    """Turned by any angle, spread over a large image or crowded in a small one: most pairs apart, or few."""
    for name, extent in (("", 1000.0), (", crowded", 200.0)):
        first, second = (data.random_rotated_rois(1000, 1, extent, extent, seed)[:, 1:] for seed in (1, 2))
        pair = first.to(options.device), second.to(options.device)
        contenders = _bind({OURS: ops.box_iou_rotated}, *pair)
        torchvision = torchvision_ops()
        if torchvision:
            contenders |= _bind({TORCHVISION: torchvision.box_iou}, *pair, "cxcywhr")
        contenders |= _bind(_rivals(reference.boxes.box_iou_rotated, None, options), *pair)
        targets: dict[str, float] = {} if options.cuda else {TORCHVISION: 20}
        yield Workload("boxes", f"box_iou_rotated 1000 x 1000{name}", contenders, _nearly_all_close, None, targets)


def _nearly_all_close(label: str, theirs: Any, ours: Tensor) -> Verdict:
    """torchvision's clipping in float32 loses the overlap of a pair in about a million; the tests have one such pair,
    and what it should be."""
    wrong = int(((theirs - ours).abs() > 1e-4).sum())
    if label != TORCHVISION or wrong == 0:
        return close(1e-4, 1e-5)(label, theirs, ours)
    return Verdict(f"{wrong} of {ours.numel()} differ", wrong <= ours.numel() // 100_000)


def _matching(options: Options) -> Workload:
    """50 objects against the anchors of a pyramid on an 800 x 1344 image, the low-quality rule included."""
    gt, anchors = data.rpn_boxes(50).to(options.device), _pyramid_anchors().to(options.device)
    arguments = (0.7, 0.3, True)
    contenders = _bind({OURS: ops.match_boxes}, gt, anchors, *arguments)
    torchvision = torchvision_ops()
    detection = torchvision and optional("torchvision.models.detection._utils", "torchvision")
    if detection:
        matcher = detection.Matcher(*arguments)
        contenders[TORCHVISION] = lambda: matcher(torchvision.box_iou(gt, anchors))
    contenders |= _bind(_rivals(reference.boxes.match_boxes, None, options), gt, anchors, *arguments)
    work = case("match_boxes").work(Sample("", (gt, anchors)))
    targets: dict[str, float] = {} if options.cuda else {TORCHVISION: 40}
    return Workload("boxes", "match_boxes 50 x 268k", contenders, close(0, 0), work, targets)


def _pyramid_anchors() -> Tensor:
    """[268569, 4] on an 800 x 1344 image: three shapes at every cell of five levels."""
    generator = ops.AnchorGenerator(tuple((32 << k,) for k in range(5)), ((0.5, 1.0, 2.0),) * 5)
    grids = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    return torch.cat(generator.grid_anchors(grids, [(4 << k, 4 << k) for k in range(5)]))


def _coding(options: Options) -> Iterator[Workload]:
    anchors = data.random_boxes(ANCHORS, seed=2).to(options.device)
    boxes = anchors + torch.rand(ANCHORS, 4, generator=data.generator(3)).to(options.device)
    deltas = (torch.randn(ANCHORS, 4, generator=data.generator(4)) * 0.5).to(options.device)
    detection = torchvision_ops() and optional("torchvision.models.detection._utils", "torchvision")
    coder = detection.BoxCoder(WEIGHTS) if detection else None
    encode = _rivals(reference.boxes.encode_boxes, None, options)
    decode = _rivals(reference.boxes.decode_boxes, None, options)
    pairs: tuple[tuple[str, _Op, Mapping[str, _Op], _Op | None, Tensor], ...] = (
        ("encode_boxes", ops.encode_boxes, encode, coder and coder.encode_single, boxes),
        ("decode_boxes", ops.decode_boxes, decode, coder and coder.decode_single, deltas),
    )
    for name, op, rivals, theirs, first in pairs:
        contenders = _bind({OURS: op}, first, anchors, WEIGHTS)
        if theirs is not None:
            contenders |= _bind({TORCHVISION: theirs}, first, anchors)
        contenders |= _bind(rivals, first, anchors, WEIGHTS)
        work = case(name).work(Sample("", (first, anchors)))
        # coordinates reach 1000, where a unit in the last place is 6e-5
        yield Workload("boxes", f"{name}, 268k anchors", contenders, close(1e-5, 5e-4), work)


def _rivals(plain: _Op, torchvision: _Op | None, options: Options) -> dict[str, _Op]:
    rivals = {TORCHVISION: torchvision} if torchvision else {}
    if options.reference(small=False):
        rivals[REFERENCE] = plain
        rivals[COMPILED] = torch.compile(plain, dynamic=False)
        if options.cuda:
            rivals[GRAPHED] = torch.compile(plain, dynamic=False, mode="reduce-overhead")
    return rivals


def _bind(contenders: Mapping[str, _Op], *args: Any) -> dict[str, Callable[[], Any]]:
    def call(op: _Op) -> Callable[[], Any]:
        return lambda: op(*args)

    return {label: call(op) for label, op in contenders.items()}


def _loss_gradient(op: _Op, boxes1: Tensor, boxes2: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    a, b = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    return lambda: torch.autograd.grad(op(a, b, "sum"), (a, b))


def _with_gradient(op: _Op, boxes1: Tensor, boxes2: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    a, b = boxes1.clone().requires_grad_(), boxes2.clone().requires_grad_()
    grad = torch.randn(len(a), len(b), generator=data.generator(5)).to(a.device)
    return lambda: torch.autograd.grad(op(a, b), (a, b), grad)
