"""Interleaved timing of several contenders in one process, and what the machine itself can do.

A ratio of two times is worth something only if both saw the same machine: the same clock, the same neighbours, warm
caches. So contenders take turns (A B C A B C ...), the ratio is taken round by round, and its median is reported.
"""

from __future__ import annotations

import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

# A measurement is as many calls as fill this time: the clock's resolution and its own cost (about 50 ns) vanish, and so
# does what is left of the turn before - a sleeping thread takes 50 us to wake up, L3 a few 100 us to fill.
_SHORTEST_MEASUREMENT_S = 1e-3
# A GPU's queue must be long enough that launching and the final synchronisation (about 10 us) are a small part.
_SHORTEST_CUDA_MEASUREMENT_S = 2e-3
# Calls shorter than this get an untimed measurement first: whoever comes after a slow contender finds cold caches and
# sleeping threads, and memory that a virtual machine has handed back to its host (2 s idle and 100 MB cost 150 ms),
# which would be charged to the fast one. What is timed is the steady state of a loop, for every contender alike.
_WARM_EACH_ROUND_BELOW_S = 1.0
_WARM_UP_S = 50e-3
_MAX_ROUNDS = 200

_PACKAGES = ("torchvision", "openvino", "lsnms", "powerboxes", "opencv-python-headless", "opencv-python", "triton")


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one entry for each round; ``calls`` calls were averaged in each."""

    seconds: tuple[float, ...]
    calls: int

    @property
    def n(self) -> int:
        return len(self.seconds)

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The middle half of the rounds lies between them."""
        if self.n < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """Interquartile range as a fraction of the median."""
        low, high = self.quartiles
        return (high - low) / self.median if self.median > 0 else 0.0

    def ratio_to(self, base: Timing) -> float:
        """Median over the common rounds of this contender's time by ``base``'s."""
        return median(mine / max(other, 1e-12) for mine, other in zip(self.seconds, base.seconds, strict=False))


@dataclass(frozen=True)
class Ceiling:
    """What the machine reaches: copying (bytes read plus bytes written) and single-precision matrix products."""

    copy_gbps: float
    sgemm_gflops: float


def compare(
    contenders: Mapping[str, Callable[[], Any]],
    *,
    budget_s: float,
    min_rounds: int = 3,
    device: str | torch.device = "cpu",
) -> dict[str, Timing]:
    """Times contenders in turns, A B C A B C ..., after a warm-up.

    Each contender may use its share of ``budget_s``; a slow one leaves the rotation when it has, though not before
    ``min_rounds``, so every ratio has at least that many rounds. The last one left has no one to compare with and
    stops too. Calls shorter than 1 ms (2 ms in all on a GPU) are repeated inside one measurement. On CUDA a measurement
    lasts from an idle device to an idle device: launching and the final synchronisation count. Caches are warm and
    nothing is flushed; garbage collection is off.
    """
    cuda = torch.device(device).type == "cuda"
    repeats = {label: _warm_up(call, cuda) for label, call in contenders.items()}
    share = budget_s / max(len(contenders), 1)
    seconds: dict[str, list[float]] = {label: [] for label in contenders}
    spent = dict.fromkeys(contenders, 0.0)
    active = list(contenders)
    with _no_garbage_collection():
        while active:
            for label in active:
                started = time.perf_counter()
                seconds[label].append(_measure(contenders[label], repeats[label], cuda))
                spent[label] += time.perf_counter() - started
            active = [
                label
                for label in active
                if len(seconds[label]) < min_rounds or (spent[label] < share and len(seconds[label]) < _MAX_ROUNDS)
            ]
            if len(active) == 1 < len(contenders) and len(seconds[active[0]]) >= min_rounds:
                break
    return {label: Timing(tuple(seconds[label]), repeats[label]) for label in contenders}


def _warm_up(call: Callable[[], Any], cuda: bool) -> int:
    """Calls until the code, caches and threads are warm; returns how many calls make one measurement."""
    shortest = math.inf
    started = time.perf_counter()
    while True:
        shortest = min(shortest, _span(call, 1, cuda))
        if time.perf_counter() - started > _WARM_UP_S:
            break
    if shortest > _WARM_UP_S:
        return 1
    if shortest < _SHORTEST_MEASUREMENT_S:
        # a second look: single calls of a few microseconds are mostly clock and loop
        shortest = _span(call, math.ceil(_SHORTEST_MEASUREMENT_S / max(shortest, 1e-7)), cuda)
    wanted = _SHORTEST_CUDA_MEASUREMENT_S if cuda else _SHORTEST_MEASUREMENT_S
    return max(1, math.ceil(wanted / max(shortest, 1e-8)))


def _measure(call: Callable[[], Any], calls: int, cuda: bool) -> float:
    seconds = _span(call, calls, cuda)
    return seconds if seconds >= _WARM_EACH_ROUND_BELOW_S else _span(call, calls, cuda)


def _span(call: Callable[[], Any], calls: int, cuda: bool) -> float:
    """Seconds per call of ``calls`` calls in a row."""
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(calls):
        call()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / calls


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@cache
def ceiling(device: str = "cpu") -> Ceiling:
    """Measures once per process: the best of several copies of 256 MB and of several square matrix products."""
    cuda = torch.device(device).type == "cuda"
    return Ceiling(_copy_gbps(device, cuda), _sgemm_gflops(device, cuda))


def _copy_gbps(device: str, cuda: bool) -> float:
    source = torch.ones(2**26, device=device)
    target = torch.zeros_like(source)  # written once, so that its pages exist
    seconds = min(_span(lambda: target.copy_(source), 20 if cuda else 1, cuda) for _ in range(10))
    return 2 * source.numel() * source.element_size() / seconds / 1e9


def _sgemm_gflops(device: str, cuda: bool) -> float:
    side = 8192 if cuda else 2048
    a, b = torch.ones(side, side, device=device), torch.ones(side, side, device=device)
    out = torch.empty_like(a)
    seconds = min(_span(lambda: torch.mm(a, b, out=out), 1, cuda) for _ in range(6))
    return 2 * side**3 / seconds / 1e9


def machine_facts() -> dict[str, str | int]:
    """What a reader needs in order to judge the times: hardware, threads, versions, date."""
    cores = _physical_cores()
    facts: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        **({"cores": cores} if cores else {}),
        "logical_cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name in _PACKAGES:
        version = _version(name)
        if version:
            facts[name] = version
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
        facts["gpu_architecture"] = "sm_{}{}".format(*torch.cuda.get_device_capability())
    facts["date"] = datetime.now(timezone.utc).date().isoformat()
    return facts


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo() -> list[dict[str, str]]:
    """/proc/cpuinfo, one mapping per logical CPU; empty where there is none."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return []
    blocks = path.read_text().strip().split("\n\n")
    pairs = [[line.partition(":") for line in block.splitlines()] for block in blocks]
    return [{key.strip(): value.strip() for key, _, value in block} for block in pairs]


def _cpu_model() -> str:
    for cpu in _cpuinfo():
        if "model name" in cpu:
            return cpu["model name"]
    return platform.processor() or "unknown"


def _physical_cores() -> int:
    """0 if unknown."""
    return len({(cpu.get("physical id"), cpu["core id"]) for cpu in _cpuinfo() if "core id" in cpu})
