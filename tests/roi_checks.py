"""What the tests of every RoI op ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastvision import _library


def pooled_and_gradient(op: Any, features: Tensor, *args: Any, weight: Any = None) -> tuple[Tensor, Tensor]:
    """The pooled map and the gradient of its sum, weighted with -1 to 1 from first to last unless told otherwise."""
    leaf = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = op(leaf, *args)
    if weight is None:
        weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    (gradient,) = torch.autograd.grad((out * weight).sum(), leaf)
    return out, gradient


def bitwise_repeatable(results: Callable[[], tuple[Tensor, ...]]) -> None:
    """Run to run and across thread counts, also where torch is told to be deterministic."""
    threads, seen = torch.get_num_threads(), []
    # emulated kernels know nothing of torch's threads: the order of theirs is another in every run
    counts = (1, 1) if _library.BACKEND == "emulated" else (1, 2, 2, 3)
    try:
        for count in counts:
            torch.set_num_threads(count)
            seen.append(results())
        torch.use_deterministic_algorithms(True)
        seen.append(results())
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))
