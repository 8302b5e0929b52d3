"""Transposed convolution: the layers that fastvision means to gain on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import memory_columns
from benchmarks.upsample.shapes import LAYOUTS, Shape
from benchmarks.workload import OURS, Options, Workload, case, close_products
from fastvision import ops
from fastvision.testing import Sample, data

TORCH = "torch"
COMPILED = "torch compiled"  # "reference compiled" would be our own loop over taps
SHUFFLED = "matmul + pixel_shuffle"

# shape -> how many times torch's speed, NCHW and channels_last
TARGETS: dict[Shape, tuple[float, float | None]] = {
    Shape("Mask R-CNN", 100, 256, 256, 2, 2, 14, 14): (2, 1.3),
    Shape("FCN-32s", 1, 21, 21, 64, 32, 34, 45, groups=21, weights="bilinear"): (10, None),
    Shape("FCN-32s", 1, 21, 21, 64, 32, 34, 45, weights="bilinear"): (20, None),
    Shape("FCN-32s", 1, 21, 21, 64, 32, 34, 45): (1, 1),
    Shape("U-Net", 1, 256, 128, 2, 2, 100, 100): (1, 0.95),
    Shape("Johnson", 1, 64, 32, 3, 2, 128, 128, 1, 1): (0.95, 0.95),
    Shape("DCGAN", 64, 128, 3, 4, 2, 32, 32, 1): (1, 0.95),
}
# the same with both gradients
TRAINED: dict[Shape, tuple[float, float]] = {
    Shape("Mask R-CNN", 100, 256, 256, 2, 2, 14, 14): (1.3, 1.1),
    Shape("FCN-32s", 1, 21, 21, 64, 32, 34, 45, groups=21, weights="bilinear"): (10, 5),
    Shape("FCN-32s", 1, 21, 21, 64, 32, 34, 45): (2, 2),
    Shape("U-Net", 1, 128, 64, 2, 2, 196, 196): (1.5, 1.5),
    Shape("Johnson", 1, 64, 32, 3, 2, 128, 128, 1, 1): (0.95, 0.95),
}


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torch's own convolution in the same layout."""
    for shape, targets in TARGETS.items():
        for (layout, memory_format), target in zip(LAYOUTS.items(), targets, strict=True):
            features, weight = shape.tensors(options.device)
            yield _forward(shape, layout, features.to(memory_format=memory_format), weight, target, options)
    for shape, targets in TRAINED.items():
        for (layout, memory_format), target in zip(LAYOUTS.items(), targets, strict=True):
            features, weight = shape.tensors(options.device)
            yield _trained(shape, layout, features.to(memory_format=memory_format), weight, target, options)
    features, weight = Shape("Mask R-CNN", 100, 256, 256, 2, 2, 14, 14).tensors(options.device)
    for layout, memory_format in LAYOUTS.items():
        yield _fused(layout, features.to(memory_format=memory_format), weight, options)


def _forward(
    shape: Shape, layout: str, features: Tensor, weight: Tensor, target: float | None, options: Options
) -> Workload:
    stride, padding, output_padding, groups = shape.arguments
    rest = (stride, padding, output_padding, groups)
    contenders: dict[str, Callable[[], Any]] = {
        OURS: lambda: ops.conv_transpose2d(features, weight, None, *rest),
        TORCH: lambda: F.conv_transpose2d(features, weight, None, *rest),
    }
    if shape.kernel == shape.stride and groups == 1:
        contenders[SHUFFLED] = lambda: _shuffled(features, weight, stride)
    if not options.quick:
        compiled = torch.compile(F.conv_transpose2d, dynamic=False)
        contenders[COMPILED] = lambda: compiled(features, weight, None, *rest)
    work = case("conv_transpose2d").work(Sample("", (features, weight, None, *rest)))
    if options.cuda:
        target = _cuda_target(shape)
    goal = {} if target is None else {TORCH: target}
    name = f"conv_transpose2d {shape.name} {layout}"
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    return Workload("upsample", name, contenders, close_products(options, 1e-3), work, goal, columns)


def _trained(shape: Shape, layout: str, features: Tensor, weight: Tensor, target: float, options: Options) -> Workload:
    """Forward, and backward to input and weight."""
    inputs = features.requires_grad_(), weight.requires_grad_()
    output = F.conv_transpose2d(*inputs, None, *shape.arguments).detach()
    # of a mean over positions: sums over as many of torch's are off in the fifth digit
    grad = data.feature_map(*output.shape, seed=1).div_(shape.height * shape.width)
    grad = grad.to(output, memory_format=LAYOUTS[layout])

    def with_gradients(function: Callable[..., Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(function(*inputs, None, *shape.arguments), inputs, grad)

    contenders = {OURS: with_gradients(ops.conv_transpose2d), TORCH: with_gradients(F.conv_transpose2d)}
    if not options.quick:
        contenders[COMPILED] = with_gradients(torch.compile(F.conv_transpose2d, dynamic=False))
    goal = {} if options.cuda else {TORCH: target}
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    name = f"conv_transpose2d {shape.name} {layout}, forward and backward"
    return Workload("upsample", name, contenders, close_products(options, 1e-3), targets=goal, columns=columns)


def _cuda_target(shape: Shape) -> float:
    """Depthwise layers and few channels are what gathering gains on; the others are cuDNN's."""
    return 5 if shape.groups > 1 else 1.5 if shape.channels < 32 else 0.95


def _shuffled(features: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Windows that do not overlap: one product, then the pixels of each window to their places."""
    columns = weight.flatten(1).T @ features.flatten(2)  # [N, O s s, H W]
    return F.pixel_shuffle(columns.unflatten(2, features.shape[2:]), stride)


def _fused(layout: str, features: Tensor, weight: Tensor, options: Options) -> Workload:
    bias = torch.linspace(-1, 1, weight.shape[1], device=weight.device)

    def torchs() -> Tensor:
        return F.conv_transpose2d(features, weight, bias, 2).relu_()

    contenders: dict[str, Callable[[], Any]] = {
        OURS: lambda: ops.conv_transpose2d(features, weight, bias, 2, activation="relu"),
        TORCH: torchs,
    }
    if not options.quick:
        contenders[COMPILED] = torch.compile(torchs, dynamic=False)
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    name = f"conv_transpose2d + bias + ReLU, Mask R-CNN, {layout}"
    return Workload("upsample", name, contenders, close_products(options, 1e-3), columns=columns)
