"""What the tests of instance_norm and of Gram matrices share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastvision.testing import data


def value_and_gradients(function: Any, *args: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in args]
    out = function(*leaves)
    weight = torch.randn(out.shape, generator=data.generator(9)).to(out)
    return out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)


def affine(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = data.generator(4)
    return torch.randn(*shape, generator=g, dtype=dtype), torch.randn(*shape, generator=g, dtype=dtype)


def product(features: Tensor) -> Tensor:
    """Unscaled, by torch in float64."""
    rows = features.double().flatten(-2)
    return rows @ rows.transpose(-1, -2)


def divisor(features: Tensor, normalize: str) -> int:
    pixels = features[0, 0].numel()
    return {"chw": features.shape[1] * pixels, "hw": pixels, "none": 1}[normalize]


def layers(device: torch.device, *channels: int, batch: int = 2, dtype: torch.dtype = torch.float32) -> Any:
    """Features of some layers, and the Gram matrices of others, of one image where the layer is even."""
    features = [data.feature_map(batch, c, 5 + c % 3, 7, seed=c).to(device, dtype) for c in channels]
    targets = [product(f.flip(-3))[0 if i % 2 == 0 else slice(None)] for i, f in enumerate(features)]
    return features, [(t / f[0].numel()).to(dtype) for f, t in zip(features, targets, strict=True)]
