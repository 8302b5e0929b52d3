"""RoIAlign: one FPN level of a detector's training batch, both layouts, fixed and adaptive sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import OURS, REFERENCE, TORCHVISION, Options, Workload, case, close, torchvision_ops
from fastvision import ops, reference
from fastvision.testing import Sample, data

SIZE = 7
_SLOW_BACKWARD = "a full-size gradient map per roi, tens of seconds a call"
_SLOW_CHANNELS_LAST = "matrix products over strided channels, up to minutes a call"


@dataclass(frozen=True)
class _Setting:
    """A feature map, its rois and how they are sampled."""

    features: Tensor
    rois: Tensor
    scale: float
    sampling_ratio: int

    @property
    def channels_last(self) -> bool:
        return not self.features.is_contiguous()

    @property
    def layout(self) -> str:
        return "channels_last" if self.channels_last else "NCHW"

    @property
    def sampling(self) -> str:
        return f"s={self.sampling_ratio}" if self.sampling_ratio > 0 else "adaptive"

    @property
    def small(self) -> bool:
        return len(self.rois) <= 8


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torchvision on the CPU, then on a GPU (an H100), where it has one."""
    features, rois = data.feature_map(2, 256, 200, 272), data.random_rois(512, 2, 800.0, 1088.0)
    # (channels_last, sampling_ratio, CPU, GPU)
    forward = ((False, 2, 6, 3), (True, 2, 20, 3), (True, 0, 20, None), (False, 0, None, None))
    for last, ratio, *targets in forward:
        yield _forward(_setting(features, rois, 0.25, ratio, last, options), targets[options.cuda], options)
    backward = ((False, 2, 20, 8), (False, 0, 30, None), (True, 2, None, None), (True, 0, None, None))
    for last, ratio, *targets in backward:
        yield _backward(_setting(features, rois, 0.25, ratio, last, options), targets[options.cuda], options)
    features, rois = data.feature_map(1, 256, 25, 25), data.random_rois(8, 1, 400.0, 400.0)
    target = None if options.cuda else 1
    for last in (False, True):
        yield _forward(_setting(features, rois, 1 / 16, 2, last, options), target, options)
    yield _backward(_setting(features, rois, 1 / 16, 2, False, options), target, options)


def _setting(
    features: Tensor, rois: Tensor, scale: float, sampling_ratio: int, channels_last: bool, options: Options
) -> _Setting:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return _Setting(
        features.to(options.device).to(memory_format=layout), rois.to(options.device), scale, sampling_ratio
    )


def _forward(setting: _Setting, target: float | None, options: Options) -> Workload:
    """Whoever needs another layout converts the channels_last input in its own time."""
    args = (setting.features, setting.rois, SIZE, setting.scale, setting.sampling_ratio)
    contenders: dict[str, Callable[[], Any]] = {OURS: lambda: ops.roi_align(*args)}
    torchvision = torchvision_ops()
    if torchvision:
        contenders[TORCHVISION] = lambda: torchvision.roi_align(*args)
    skipped: dict[str, str] = {}
    if setting.channels_last and not setting.small:
        skipped[REFERENCE] = _SLOW_CHANNELS_LAST
    elif options.reference(small=setting.small):
        contenders[REFERENCE] = lambda: reference.roi.roi_align(*args)
    return _workload("forward", setting, contenders, target, skipped)


def _backward(setting: _Setting, target: float | None, options: Options) -> Workload:
    """The gradient comes in the layout of the features; what torchvision returns stays NCHW, at no cost to it."""
    batch, channels, height, width = setting.features.shape
    grad = data.feature_map(len(setting.rois), channels, SIZE, SIZE, seed=1).to(options.device)
    if setting.channels_last:
        grad = grad.to(memory_format=torch.channels_last)
    rois, scale, ratio = setting.rois, setting.scale, setting.sampling_ratio
    # the op, not autograd: both libraries are timed without a graph
    ours, last = torch.ops.fastvision.roi_align_backward, setting.channels_last
    contenders: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(grad, rois, scale, batch, height, width, ratio, False, last, False)
    }
    if torchvision_ops():
        theirs = torch.ops.torchvision._roi_align_backward
        contenders[TORCHVISION] = lambda: theirs(
            grad, rois, scale, SIZE, SIZE, batch, channels, height, width, ratio, False
        )
    skipped: dict[str, str] = {}
    if setting.small:
        contenders[REFERENCE] = _reference_backward(setting, grad)
    else:
        skipped[REFERENCE] = _SLOW_BACKWARD
    return _workload("backward", setting, contenders, target, skipped)


def _reference_backward(setting: _Setting, grad: Tensor) -> Callable[[], Tensor]:
    features = setting.features.clone().requires_grad_()
    output = reference.roi.roi_align(features, setting.rois, SIZE, setting.scale, setting.sampling_ratio)
    return lambda: torch.autograd.grad(output, features, grad, retain_graph=True)[0]


def _workload(
    direction: str,
    setting: _Setting,
    contenders: dict[str, Callable[[], Any]],
    target: float | None,
    skipped: dict[str, str],
) -> Workload:
    _, channels, height, width = setting.features.shape
    shape = f"{len(setting.rois)} rois, {channels}x{height}x{width}"
    sample = Sample(shape, (setting.features, setting.rois, SIZE))
    return Workload(
        "roi",
        f"roi_align {direction} {setting.sampling} {setting.layout}, {shape}",
        contenders,
        # bins are means of unit normals; a pixel's gradient is the sum of up to a few hundred bins in any order
        close(1e-4, 1e-4 if direction == "forward" else 5e-4),
        case("roi_align").work(sample),
        {} if target is None else {TORCHVISION: target},
        skipped=skipped,
    )
