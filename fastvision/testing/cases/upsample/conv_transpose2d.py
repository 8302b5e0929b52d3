"""Transposed convolution, of images and of signals, and the two ops made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import TOLERANCES, OpCase, Sample, Work, nbytes


def layer(
    channels: int, outputs: int, kernel: tuple[int, int], groups: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(weight [C, O / groups, kh, kw], bias [O]) of about unit gain."""
    g = data.generator(seed)
    weight = torch.randn(channels, outputs // groups, *kernel, generator=g) / (channels // groups) ** 0.5
    return weight, torch.randn(outputs, generator=g)


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, features: Tensor, outputs: int, kernel: tuple[int, int], *rest: Any, **kwargs: Any) -> Sample:
        groups = rest[3] if len(rest) > 3 else 1
        weight, bias = layer(features.shape[1], outputs, kernel, groups)
        return Sample(name, (features, weight.to(device, dtype), bias.to(device, dtype), *rest), kwargs)

    def images(*size: int) -> Tensor:
        return data.feature_map(*size).to(device, dtype)

    last = torch.channels_last
    yield sample("2x2, stride 2", images(2, 5, 9, 17), 11, (2, 2), 2)
    yield sample("overlapping", images(2, 6, 7, 19), 9, (4, 4), 2, 1)
    yield sample("odd in all ways", images(1, 4, 8, 11), 6, (3, 5), (2, 3), (1, 2), (1, 2), 2, (1, 2))
    yield sample("stride 1", images(2, 3, 6, 9), 5, (3, 3), 1, 1, activation="relu")
    yield sample("dilated by more than its stride", images(1, 3, 7, 5), 2, (2, 3), 1, 1, 2, 1, 3)
    yield sample("depthwise", images(2, 5, 9, 18), 5, (4, 4), 2, 1, 0, 5, activation="leaky_relu", negative_slope=0.2)
    yield sample("depthwise, stride 3", images(1, 4, 6, 5), 4, (5, 7), 3, 2, 1, 4)
    yield sample("depthwise, twice the outputs", images(1, 3, 5, 6), 6, (3, 3), 2, 1, 1, 3)
    yield sample("depthwise, large stride", images(1, 3, 4, 5), 3, (24, 40), (12, 20), 5, 0, 3)
    yield sample("bilinear, channels_last", images(2, 3, 4, 5).to(memory_format=last), 3, (32, 32), 16, 8, 0, 3)
    yield sample("channels_last", images(2, 5, 6, 7).to(memory_format=last), 4, (4, 4), 2, 1, activation="relu")
    yield sample("channels_last, large stride", images(1, 3, 3, 4).to(memory_format=last), 20, (9, 9), 8, 1)
    yield sample("channels_last, depthwise", images(2, 21, 6, 19).to(memory_format=last), 21, (4, 5), (2, 3), 1, 1, 21)
    yield sample("channels_last, windows", images(1, 16, 7, 9).to(memory_format=last), 32, (2, 2), 2)
    yield sample("depthwise, narrow", images(2, 5, 4, 13), 5, (5, 5), 4, 1, 0, 5)
    yield sample("strided input", images(2, 12, 9, 12)[:, ::2, 1:, ::3], 7, (3, 3), 2, 1, 1)
    yield sample("one pixel", images(3, 8, 1, 1), 5, (4, 4))
    weight, bias = layer(4, 4, (4, 4))
    diagonal = (weight * torch.eye(4)[:, :, None, None]).to(device, dtype)
    yield Sample("diagonal", (images(1, 4, 6, 7), diagonal, bias.to(device, dtype), 2, 1))
    yield Sample("without a batch", (images(1, 4, 6, 7)[0], weight.to(device, dtype), bias.to(device, dtype), 2))
    yield sample("no images", images(1, 3, 4, 4)[:0], 2, (2, 2), 2)


def _gradients(device: torch.device) -> Iterator[Sample]:
    features = data.feature_map(1, 4, 2, 3).to(device, torch.float64)
    for name, outputs, kernel, rest, activation in (
        ("2x2", 3, (2, 2), (2,), None),
        ("grouped, dilated", 4, (2, 3), (2, 1, 1, 2, (1, 2)), "leaky_relu"),
        ("depthwise", 4, (3, 3), (2, 1, 1, 4), "relu"),
        ("wide depthwise", 4, (1, 18), ((1, 16), (0, 4), 0, 4), None),
    ):
        weight, bias = layer(4, outputs, kernel, rest[3] if len(rest) > 3 else 1)
        tensors = (features, weight.to(device, torch.float64), bias.to(device, torch.float64))
        yield Sample(name, (*tensors, *rest), {"activation": activation})


def work(sample: Sample) -> Work:
    """Input and weights read once, outputs written once."""
    features, weight = sample.args[:2]
    outputs = nbytes(ops.conv_transpose2d.reference(*sample.args, **sample.kwargs))  # type: ignore[attr-defined]
    return Work(nbytes(features, weight) + outputs, 2 * features.numel() * weight[0].numel())


def _signals(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 3, 1, 9)[:, :, 0].to(device, dtype)
    weight, bias = (t.to(device, dtype) for t in layer(3, 4, (1, 3)))
    yield Sample("stride 2", (features, weight[:, :, 0], bias, 2))
    yield Sample("all arguments", (features, weight[:, :, 0], None, 2, 1, 1, 1, 2), {"activation": "relu"})
    yield Sample("one signal", (features[0], weight[:, :, 0]))
    yield Sample("depthwise", (features, weight[:, :1, 0], bias[:3], 2, 1, 0, 3))


def _signal_gradients(device: torch.device) -> Iterator[Sample]:
    yield from _signals(device, torch.float64)


def _plain(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    images = data.feature_map(2, 3, 5, 6).to(device, dtype)
    yield Sample("twofold", (images, 2))
    yield Sample("channels_last", (images.to(memory_format=torch.channels_last), 3))
    yield Sample("strided", (images[:, 1:, ::2, ::3], 2))
    yield Sample("one", (images, 1))
    yield Sample("eightfold", (images, 8))
    yield Sample("no images", (images[:0], 2))


def _plain_gradients(device: torch.device) -> Iterator[Sample]:
    yield Sample("twofold", (data.feature_map(1, 2, 3, 2).to(device, torch.float64), 2))


def _plain_work(sample: Sample) -> Work:
    images, factor = sample.args
    return Work(nbytes(images) * (1 + factor**2), 0)


# torch's half-precision convolutions round the sum before they add the bias
_TOLERANCES = {**TOLERANCES, torch.float16: (4e-3, 4e-3)}

_OPS = ("conv_transpose2d", "conv_transpose2d_input_gradient", "conv_transpose2d_weight_gradient")
_OPS_OF_MAPS = (*_OPS, "to_layout")  # planes whose gradients torch computes in channels_last

CASES = (
    OpCase(
        "conv_transpose2d",
        ops.conv_transpose2d,
        _OPS_OF_MAPS,
        _samples,
        work,
        gradient_samples=_gradients,
        differentiable=(0, 1, 2),
        linear=True,
        tolerances=_TOLERANCES,
    ),
    OpCase(
        "conv_transpose1d",
        ops.conv_transpose1d,
        _OPS,
        _signals,
        work,
        gradient_samples=_signal_gradients,
        differentiable=(0, 1),
        linear=True,
    ),
    OpCase(
        "bed_of_nails_upsample",
        ops.bed_of_nails_upsample,
        ("bed_of_nails_upsample", "bed_of_nails_upsample_backward"),
        _plain,
        _plain_work,
        gradient_samples=_plain_gradients,
        differentiable=(0,),
        linear=True,
    ),
    OpCase(
        "nearest_upsample",
        ops.nearest_upsample,
        ("nearest_upsample", "nearest_upsample_backward"),
        _plain,
        _plain_work,
        gradient_samples=_plain_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
