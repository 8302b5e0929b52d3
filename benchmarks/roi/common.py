"""What the benchmarks of the family share: maps, regions and calls forward and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import OURS, TORCHVISION, Options, Workload, case, close, torchvision_ops
from fastvision import ops
from fastvision.testing import Sample

Call = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """A map, its regions and the other arguments of the op."""

    features: Tensor
    rois: Tensor
    args: tuple[Any, ...]
    label: str = ""

    def on(self, options: Options, channels_last: bool) -> Setting:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        features = self.features.to(options.device).to(memory_format=layout)
        label = f"{self.label} {'channels_last' if channels_last else 'NCHW'}".strip()
        return Setting(features, self.rois.to(options.device), self.args, label)

    @property
    def shape(self) -> str:
        _, channels, height, width = self.features.shape
        return f"{len(self.rois)} rois, {channels}x{height}x{width}"


@dataclass(frozen=True)
class Rivals:
    """label -> the op of a rival, called as ours, and why others do not take part."""

    ops: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def torchvision_rival(name: str) -> dict[str, Callable[..., Tensor]]:
    """torchvision's op of the same name, if there is one here."""
    torchvision = torchvision_ops()
    return {TORCHVISION: getattr(torchvision, name)} if torchvision else {}


def forward(
    name: str, setting: Setting, rivals: Rivals, targets: Mapping[str, float] | None = None, atol: float = 1e-4
) -> Workload:
    """Whoever needs another layout converts the input in its own time."""
    calls = {OURS: getattr(ops, name), **rivals.ops}
    contenders = {label: _forward_call(op, setting) for label, op in calls.items()}
    return _workload(name, "forward", setting, contenders, rivals, targets, atol)


def backward(
    name: str, setting: Setting, rivals: Rivals, targets: Mapping[str, float] | None = None, atol: float = 5e-4
) -> Workload:
    """The gradient of the map alone, through autograd, on graphs made before the clock starts."""
    calls = {OURS: getattr(ops, name), **rivals.ops}
    contenders = {label: _backward_call(op, setting) for label, op in calls.items()}
    return _workload(name, "backward", setting, contenders, rivals, targets, atol)


def _forward_call(op: Callable[..., Tensor], setting: Setting) -> Call:
    return lambda: op(setting.features, setting.rois, *setting.args)


def _backward_call(op: Callable[..., Tensor], setting: Setting) -> Call:
    features = setting.features.detach().requires_grad_()
    output = op(features, setting.rois, *setting.args)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    if not setting.features.is_contiguous() and output.dim() == 4:
        grad = grad.contiguous(memory_format=torch.channels_last)
    return lambda: torch.autograd.grad(output, features, grad, retain_graph=True)[0]


def _workload(
    name: str,
    direction: str,
    setting: Setting,
    contenders: Mapping[str, Call],
    rivals: Rivals,
    targets: Mapping[str, float] | None,
    atol: float,
) -> Workload:
    sample = Sample(setting.shape, (setting.features, setting.rois, *setting.args))
    return Workload(
        "roi",
        f"{name} {direction} {setting.label}, {setting.shape}",
        contenders,
        close(1e-4, atol),
        case(name).work(sample),
        dict(targets or {}),
        skipped=rivals.skipped,
    )
