"""Instance normalisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes

_RELU: dict[str, Any] = {"activation": "relu"}
_LEAKY: dict[str, Any] = {"activation": "leaky_relu", "leaky_slope": 0.2}


def _affine(*shape: int, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Weight and bias, float32."""
    g = data.generator(seed)
    return torch.randn(*shape, generator=g), torch.randn(*shape, generator=g)


def _maps(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """Two images, 20 channels, and an activation."""
    maps = (data.feature_map(2, 20, 13, 17) + 0.5).to(device, dtype)
    yield "plain", maps, _RELU
    yield "channels_last", maps.to(memory_format=torch.channels_last), _LEAKY
    yield "strided", data.feature_map(2, 60, 26, 18).to(device, dtype)[:, ::3, 1:, ::2], _RELU
    yield "transposed", maps.transpose(2, 3), _LEAKY
    yield "every other plane", data.feature_map(2, 40, 9, 31).to(device, dtype)[:, ::2], _LEAKY
    yield "no images", maps[:0], _RELU
    yield "one pixel", maps[:, :, :1, :1], {}
    yield "no pixels", maps[:, :, :0], _LEAKY
    yield "sequences", maps[:, :, 3], {}
    yield "volumes", maps[:, :, :, None], _RELU


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    weight, bias = (t.to(device) for t in _affine(20))
    for name, maps, how in _maps(device, dtype):
        yield Sample(name, (maps, weight, bias), how)
    many = data.feature_map(1, 150, 40, 33).to(device, dtype)
    weight, bias = (t.to(device, dtype) for t in _affine(150))
    yield Sample("more channels than lanes", (many.to(memory_format=torch.channels_last), weight, bias), _RELU)
    yield Sample("more pixels than a block", (many[:, :3], weight[:3], bias[:3]), _LEAKY)
    few = many[:, :3].contiguous(memory_format=torch.channels_last)
    yield Sample("fewer channels than lanes", (few, weight[:3], bias[:3]), {"eps": 1e-2, **_RELU})


def _plain_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for name, maps, how in _maps(device, dtype):
        yield Sample(name, (maps,), how)


def _styled_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    weight, bias = (t.to(device) for t in _affine(4, 20))
    style = torch.tensor([2, 0], device=device)
    for name, maps, how in _maps(device, dtype):
        yield Sample(name, (maps, weight, bias), {"style": style[: len(maps)], **how})
    maps = data.feature_map(5, 20, 6, 7).to(device, dtype)
    yield Sample("repeated", (maps, weight, bias), {"style": torch.tensor([1, 1, 3, 1, 3], device=device), **_RELU})


def _gradients(device: torch.device) -> Iterator[Sample]:
    maps = data.feature_map(2, 2, 3, 4).to(device, torch.float64)
    weight, bias = (t.to(device, torch.float64) for t in _affine(2))
    yield Sample("plain", (maps, weight, bias))
    yield Sample("relu", (maps.to(memory_format=torch.channels_last), weight, bias), _RELU)
    yield Sample("leaky", (maps[:, :, :2, 0], weight, bias), _LEAKY)


def _plain_gradients(device: torch.device) -> Iterator[Sample]:
    yield Sample("relu", (data.feature_map(1, 2, 3, 4).to(device, torch.float64),), _RELU)


def _styled_gradients(device: torch.device) -> Iterator[Sample]:
    maps = data.feature_map(3, 1, 2, 3).to(device, torch.float64)
    weight, bias = (t.to(device, torch.float64) for t in _affine(3, 1))
    yield Sample("leaky", (maps, weight, bias), {"style": torch.tensor([2, 0, 2], device=device), **_LEAKY})


def _work(sample: Sample) -> Work:
    """Read once, written once."""
    return Work(2 * nbytes(sample.args[0]), 8 * sample.args[0].numel())


_OPS = ("instance_norm", "instance_norm_backward")
CASES = (
    OpCase(
        "instance_norm",
        ops.instance_norm,
        _OPS,
        _samples,
        _work,
        gradient_samples=_gradients,
        differentiable=(0, 1, 2),
        linear=True,
    ),
    OpCase(
        "instance_norm",
        ops.instance_norm,
        _OPS,
        _plain_samples,
        _work,
        gradient_samples=_plain_gradients,
        differentiable=(0,),
        linear=True,
        variant="without weights",
    ),
    OpCase(
        "instance_norm",
        ops.instance_norm,
        _OPS,
        _styled_samples,
        _work,
        gradient_samples=_styled_gradients,
        differentiable=(0, 1, 2),
        linear=True,
        variant="conditional",
    ),
)
