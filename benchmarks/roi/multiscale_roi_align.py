"""RoIAlign on a feature pyramid: the pooling of a detector's box head, inference and training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import OURS, REFERENCE, TORCHVISION, Options, Workload, case, close, torchvision_ops
from fastvision import ops
from fastvision.testing import Sample, data

SIZE = 7
IMAGE = (800, 1088)
SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
_SLOW_REFERENCE = "pools one region at a time, tens of seconds a call"

_Call = Callable[[], Any]


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torchvision's module, on the CPU."""
    # (channels_last, forward and backward, target)
    for last, backward, target in ((False, False, 8), (False, True, 10), (True, False, None), (True, True, None)):
        yield _workload(last, backward, None if options.cuda else target, options)


def _workload(channels_last: bool, backward: bool, target: float | None, options: Options) -> Workload:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = {
        str(i): data.feature_map(2, 256, int(IMAGE[0] * s), int(IMAGE[1] * s), seed=i)
        .to(options.device)
        .to(memory_format=layout)
        .requires_grad_(backward)
        for i, s in enumerate(SCALES)
    }
    boxes = [proposals(512, seed).to(options.device) for seed in (1, 2)]

    def contender(family: Any) -> _Call:
        module = family.MultiScaleRoIAlign(list(maps), SIZE, 2)
        if not backward:
            return lambda: module(maps, boxes, [IMAGE, IMAGE])
        # a leaf's gradient would be accumulated; the functional form leaves that out for all alike
        return lambda: torch.autograd.grad(
            (out := module(maps, boxes, [IMAGE, IMAGE])), list(maps.values()), _ones_like(out)
        )

    contenders: dict[str, _Call] = {OURS: contender(ops)}
    torchvision = torchvision_ops()
    if torchvision:
        contenders[TORCHVISION] = contender(torchvision)
    direction = "forward and backward" if backward else "forward"
    name = f"MultiScaleRoIAlign {direction} s=2 {'channels_last' if channels_last else 'NCHW'}, 2 x 512 rois, 4 x 256"
    return Workload(
        "roi",
        name,
        contenders,
        close(1e-4, 5e-4 if backward else 1e-4),
        case("multiscale_roi_align").work(Sample(name, (list(maps.values()), torch.cat(boxes), SIZE))),
        {} if target is None else {TORCHVISION: target},
        skipped={REFERENCE: _SLOW_REFERENCE},
    )


def _ones_like(out: Tensor) -> Tensor:
    return torch.ones_like(out)


def proposals(count: int, seed: int) -> Tensor:
    """[count, 4] as an RPN proposes: five scales, so that every level has its share."""
    return data.rpn_boxes(count, *map(float, IMAGE), seed=seed)
