"""Arguments of ops that are not differentiable: the result requires no gradient, rather than losing it silently."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def constant(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.requires_grad else tensor


def constants(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [constant(t) for t in tensors]
