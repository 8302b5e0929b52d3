"""What an op case is: inputs to try, how close is close enough, and what the work costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

# (relative, absolute): a few units in the last place of the storage type; sums are float32 or float64
TOLERANCES: Mapping[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-10, 1e-10),
    torch.float32: (1e-4, 1e-5),
    torch.float16: (2e-3, 2e-3),
    torch.bfloat16: (1.6e-2, 1.6e-2),
}


@dataclass(frozen=True)
class Sample:
    """One call: ``op(*args, **kwargs)``."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """Least traffic and arithmetic of a call: inputs read once, outputs written once."""

    bytes: int
    flops: int


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@dataclass(frozen=True)
class OpCase:
    """All that the tests and the benchmarks know of one public op.

    Attributes:
        name: of the public function in ``fastvision.ops``.
        variant: tells cases of one function apart.
        op: the function; its plain PyTorch twin is ``op.reference``.
        torch_ops: the ``torch.ops.fastvision`` ops it is made of.
        samples: ``(device, dtype) -> calls``, edge cases included, the same in every run.
        gradient_samples: calls in float64, away from kinks, for gradcheck; None if not differentiable.
        differentiable: positions in ``args`` that gradients flow to; tensors or lists of tensors.
        linear: in those arguments, or differentiable twice for another reason, so that gradgradcheck applies.
        work: cost of a call.
        exact: outputs are indices and must be equal.
        gradients_elsewhere: differentiable, with a test of its own: the result is not one tensor.
        traceable: false if the result is not made of tensors, so that torch.compile and torch.export do not apply.
    """

    name: str
    op: Callable[..., Any]
    torch_ops: tuple[str, ...]
    samples: Callable[[torch.device, torch.dtype], Iterator[Sample]]
    work: Callable[[Sample], Work]
    gradient_samples: Callable[[torch.device], Iterator[Sample]] | None = None
    differentiable: tuple[int, ...] = ()
    linear: bool = False
    exact: bool = False
    gradients_elsewhere: bool = False
    traceable: bool = True
    variant: str = ""
    tolerances: Mapping[torch.dtype, tuple[float, float]] = field(default_factory=lambda: TOLERANCES)

    @property
    def id(self) -> str:
        return f"{self.name} {self.variant}".strip()
