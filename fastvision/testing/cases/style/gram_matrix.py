"""Gram matrices and the style loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import TOLERANCES, OpCase, Sample, Work, nbytes


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 37, 9, 13).to(device, dtype)
    yield Sample("plain", (features,))
    last = torch.channels_last
    yield Sample("channels_last", (features.to(memory_format=last), "hw"))
    yield Sample("several chunks", (data.feature_map(1, 64, 50, 70).to(device, dtype), "hw"))
    yield Sample("strided", (features[:, ::2, :, ::3], "chw"))
    yield Sample("no batch", (features[0], "hw"))
    yield Sample("one channel, unscaled", (features[:, :1, :4, :4] / 4, "none"))
    yield Sample("one pixel", (features[:, :, :1, :1],))
    region = torch.zeros(9, 13, device=device, dtype=dtype)
    region[2:6, 3:] = 1
    yield Sample("a region", (features, "hw"), {"weight_map": region})
    yield Sample("regions", (features,), {"weight_map": torch.stack([region, 1 - region])})
    yield Sample("no images", (features[:0],))


def _gradients(device: torch.device) -> Iterator[Sample]:
    features = data.feature_map(2, 5, 3, 4).to(device, torch.float64)
    yield Sample("plain", (features,))
    yield Sample("channels_last", (features.to(memory_format=torch.channels_last), "hw"))
    yield Sample("a region", (features, "none"), {"weight_map": torch.rand(3, 4, device=device, dtype=torch.float64)})


def _work(sample: Sample) -> Work:
    """Features read once; the lower triangle of the products."""
    features = sample.args[0]
    channels = features.shape[-3]
    return Work(nbytes(features), features.numel() * (channels + 1))


def _loss_work(sample: Sample) -> Work:
    features = sample.args[0]
    return Work(nbytes(*features), sum(f.numel() * (f.shape[1] + 1) for f in features))


def _layers(device: torch.device, dtype: torch.dtype, batch: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    """Features of two layers, and targets of their size."""
    features = [data.feature_map(batch, 6, 5, 7, seed=1), data.feature_map(batch, 11, 4, 3, seed=2)]
    grams = [ops.gram_matrix.reference(f.flip(0), "hw") for f in features]  # type: ignore[attr-defined]
    return [f.to(device, dtype) for f in features], [grams[0][0].to(device, dtype), grams[1].to(device, dtype)]


def _loss_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features, targets = _layers(device, dtype)
    yield Sample("two layers", (features, targets, [0.5, 2.0]), {"normalize": "hw"})
    yield Sample("unweighted", (features, targets))
    last = [f.to(memory_format=torch.channels_last) for f in features]
    yield Sample("channels_last", (last, targets), {"normalize": "hw"})
    maps = [torch.rand(f.shape[-2:], generator=data.generator(3)).to(device, dtype) for f in features]
    yield Sample("regions", (features, targets), {"normalize": "hw", "weight_maps": maps})


def _loss_gradients(device: torch.device) -> Iterator[Sample]:
    features, targets = _layers(device, torch.float64)
    yield Sample("two layers", ([f[..., :2] for f in features], targets, [0.5, 2.0]), {"normalize": "hw"})


# features are rounded after they are weighted with a map
_TOLERANCES = {**TOLERANCES, torch.float16: (8e-3, 4e-3), torch.bfloat16: (4e-2, 3e-2)}

CASES = (
    OpCase(
        "gram_matrix",
        ops.gram_matrix,
        ("gram_matrix", "gram_matrix_backward"),
        _samples,
        _work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
        tolerances=_TOLERANCES,
    ),
    OpCase(
        "style_loss",
        ops.style_loss,
        ("style_loss", "style_loss_backward", "style_loss_scale_"),
        _loss_samples,
        _loss_work,
        gradient_samples=_loss_gradients,
        differentiable=(0, 1),
        linear=True,
        tolerances=_TOLERANCES,
    ),
)
