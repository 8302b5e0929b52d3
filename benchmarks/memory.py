"""What a call takes beside its input and output."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastvision import empty_cache


def release_free_memory() -> None:
    """Gives the system back what the allocator holds, as in a fresh process.

    Otherwise what ran before decides whether a large tensor is recycled memory or fresh pages, which is a factor of two
    for ops that are mostly memory.
    """
    gc.collect()
    empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # only the C library of Linux has it
        ctypes.CDLL(None).malloc_trim(0)


def extra_memory_mb(call: Callable[[], Any]) -> float | None:
    """Peak resident memory during a call less its output; None where the system does not say (only Linux does)."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    # the allocator's own pools are warm after the first call
    size = _bytes(call())
    release_free_memory()  # or the call might find its memory among what was freed and stayed resident
    try:
        reset.write_text("5")  # forget the peak
        before = _status_kb(status, "VmRSS")
        output = call()
        peak = _status_kb(status, "VmHWM")
    except (OSError, StopIteration):
        return None
    del output
    return max(0.0, (peak - before) * 1024 - size) / 1e6


def extra_cuda_memory_mb(call: Callable[[], Any]) -> float:
    """Peak memory that torch's allocator has out during a call, less its output."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return max(0, peak - _bytes(output)) / 1e6


def memory_columns(call: Callable[[], Any], *, cuda: bool) -> Callable[[Any], Mapping[str, int | str]]:
    """For :attr:`benchmarks.workload.Workload.columns`: of the device where ``cuda`` says that the call runs there."""
    extra = extra_cuda_memory_mb(call) if cuda else extra_memory_mb(call)
    columns: dict[str, int | str] = {} if extra is None else {"extra MB": f"{extra:.1f}"}
    return lambda output: columns


def _bytes(output: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(output) if isinstance(t, Tensor))


def _status_kb(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))
