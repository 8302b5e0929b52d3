"""Calls of op cases."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastvision.testing.case import OpCase, Sample


def call(op: Any, sample: Sample) -> Any:
    """A tensor, or a tuple, list or dict of them (of tuples, and so on); run lengths are text."""
    return op(*sample.args, **sample.kwargs)


def differentiated(case: OpCase, sample: Sample) -> tuple[list[Tensor], Any]:
    """Leaves that require gradients, and the op as a function of them."""
    found, spec = tree_flatten([sample.args[i] for i in case.differentiable])
    leaves = [t.detach().clone().requires_grad_() for t in found]

    def function(op: Any, *tensors: Tensor) -> Tensor:
        args = list(sample.args)
        for position, value in zip(case.differentiable, tree_unflatten(list(tensors), spec), strict=True):
            args[position] = value
        result: Tensor = op(*args, **sample.kwargs)
        return result

    return leaves, function
