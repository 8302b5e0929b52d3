"""What a benchmark is - contenders, an equality check, the cost of the work, targets - and how one is run."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.memory import release_free_memory
from fastvision.testing import OpCase, Work
from fastvision.testing.cases import CASES
from fastvision.testing.timing import Ceiling, Timing, compare

OURS = "fastvision"
TORCHVISION = "torchvision"
REFERENCE = "reference"  # fastvision.reference, plain PyTorch, eager
COMPILED = "reference compiled"
GRAPHED = "reference compiled, CUDA graphs"

# a contender that needs longer for one call is reported and left out
TOO_SLOW_S = 5.0
# so long takes no compiler: a second call would only take as long again
_HOPELESS_S = 60.0

_missing: dict[str, str] = {}


@dataclass(frozen=True)
class Options:
    """What the command line decides. ``quick`` means fewer rounds and fewer rivals, never a smaller workload."""

    device: str = "cpu"
    quick: bool = False

    @property
    def budget_s(self) -> float:
        """For each contender of a workload; a GPU has no neighbours and repeats itself."""
        if self.cuda:
            return 0.1 if self.quick else 0.5
        return 0.4 if self.quick else 1.5

    @property
    def min_rounds(self) -> int:
        return 3 if self.quick else 5

    @property
    def cuda(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def reference(self, *, small: bool) -> bool:
        """Whether the plain PyTorch ops take part."""
        return small or not self.quick


@dataclass(frozen=True)
class Verdict:
    """How a contender's output relates to ours: ``equal``, a largest difference, or why they cannot be compared."""

    text: str
    ok: bool = True


@dataclass(frozen=True)
class Workload:
    """One op on one input.

    Attributes:
        contenders: label -> call; ours first, under ``OURS``.
        equal: ``(label, their output, our output) -> Verdict``.
        work: least traffic and arithmetic, for GB/s and GFLOP/s; None where they mean nothing.
        targets: label -> how many times faster than it we mean to be.
        columns: our output -> more to print, such as the number of boxes kept.
        skipped: label -> why it does not take part.
    """

    family: str
    name: str
    contenders: Mapping[str, Callable[[], Any]]
    equal: Callable[[str, Any, Any], Verdict]
    work: Work | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    columns: Callable[[Any], Mapping[str, int | str]] = lambda output: {}
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One contender's result; ``ratio`` is its time by ours."""

    label: str
    verdict: Verdict
    timing: Timing
    ratio: float
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        return None if self.target is None else self.ratio >= self.target


@dataclass(frozen=True)
class Result:
    """A workload that was run; its tensors are gone."""

    family: str
    name: str
    rows: tuple[Row, ...]
    work: Work | None
    columns: Mapping[str, int | str]
    skipped: Mapping[str, str]
    failed: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return not self.failed and all(row.verdict.ok for row in self.rows)


@dataclass(frozen=True)
class Rate:
    """Achieved traffic or arithmetic, whichever is nearer to what the machine can do, and how near."""

    value: float
    unit: str
    share: float


def rate_of(work: Work | None, seconds: float, limits: Ceiling) -> Rate | None:
    if work is None or seconds <= 0:
        return None
    gbps, gflops = work.bytes / seconds / 1e9, work.flops / seconds / 1e9
    traffic = Rate(gbps, "GB/s", gbps / limits.copy_gbps)
    arithmetic = Rate(gflops, "GFLOP/s", gflops / limits.sgemm_gflops)
    return max(traffic, arithmetic, key=lambda rate: rate.share)


def run(workload: Workload, options: Options) -> Result:
    """Checks every contender's output against ours, then times those that can take part, in turns."""
    if next(iter(workload.contenders), None) != OURS:
        raise ValueError(f"{workload.name}: expected {OURS!r} as the first contender, got {list(workload.contenders)}")
    torch.compiler.reset()  # or the rivals of earlier workloads would count towards the limit, past which all are eager
    skipped, failed = dict(workload.skipped), dict[str, str]()
    verdicts: dict[str, Verdict] = {}
    columns: Mapping[str, int | str] = {}
    ours: Any = None
    for label, call in workload.contenders.items():
        try:
            output, seconds = _settled(call)
            if label == OURS:
                ours, columns = output, workload.columns(output)
            verdict = Verdict("-") if label == OURS else workload.equal(label, output, ours)
        except Exception as error:
            # a rival may lack a kernel, a compiler or a device; that is a line in the report, and for us a failure
            (failed if label == OURS else skipped)[label] = f"{type(error).__name__}: {_first_line(error)}"
            if label == OURS:
                break
            continue
        if seconds <= TOO_SLOW_S or label == OURS:
            verdicts[label] = verdict
        else:
            (skipped if verdict.ok else failed)[label] = f"{seconds:.1f} s a call; {verdict.text}"
    del ours
    release_free_memory()
    rows = _time(workload, verdicts, options)
    return Result(workload.family, workload.name, rows, workload.work, columns, skipped, failed)


def _time(workload: Workload, verdicts: Mapping[str, Verdict], options: Options) -> tuple[Row, ...]:
    timings = compare(
        {label: workload.contenders[label] for label in verdicts},
        budget_s=options.budget_s * len(verdicts),
        min_rounds=options.min_rounds,
        device=options.device,
    )
    return tuple(_row(label, timings, verdict, workload.targets.get(label)) for label, verdict in verdicts.items())


def _row(label: str, timings: Mapping[str, Timing], verdict: Verdict, target: float | None) -> Row:
    ratio = 1.0 if label == OURS else timings[label].ratio_to(timings[OURS])
    return Row(label, verdict, timings[label], ratio, target)


def _settled(call: Callable[[], Any]) -> tuple[Any, float]:
    """(output, seconds). A long first call may have compiled something, so it gets a second chance."""
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        output = call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if not TOO_SLOW_S < seconds < _HOPELESS_S:
            break
    return output, seconds


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:120]


def optional(module: str, package: str | None = None) -> Any:
    """The module, or None with a note for :func:`missing`. ``package`` is its name for pip, where that differs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = error.name == module.partition(".")[0]
        _missing[package or module] = "" if absent else f" ({_first_line(error)})"
    except Exception as error:
        # one built for another torch or numpy fails in many ways
        _missing[package or module] = f" ({type(error).__name__}: {_first_line(error)})"
    return None


def missing() -> list[str]:
    """What :func:`optional` did not find, a line each."""
    return [f"not installed: {name}{reason}" for name, reason in sorted(_missing.items())]


def torchvision_ops() -> Any:
    """``torchvision.ops``, or None if torchvision or its compiled library is absent."""
    module = optional("torchvision.ops", "torchvision")
    extension = optional("torchvision.extension", "torchvision")
    if module is None or extension is None:
        return None
    if not extension._has_ops():
        _missing["torchvision"] = " (its compiled library failed to load)"
        return None
    return module


def case(name: str) -> OpCase:
    """The op's line in the table that the tests use, for what its work costs."""
    return next(case for case in CASES if case.name == name)


def close(rtol: float, atol: float) -> Callable[[str, Any, Any], Verdict]:
    """Tensors, or tuples, lists and dicts of them, within ``atol + rtol * |ours|``."""

    def check(label: str, theirs: Any, ours: Any) -> Verdict:
        pairs = list(zip(_tensors(theirs), _tensors(ours), strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            return Verdict(f"shapes differ: {[tuple(a.shape) for a, _ in pairs]}", ok=False)
        ok = all(torch.allclose(a, b, rtol, atol, equal_nan=True) for a, b in pairs)
        largest = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
        return Verdict("equal" if largest == 0 else f"max diff {largest:.0e}", ok)

    return check


def close_products(options: Options, tolerance: float) -> Callable[[str, Any, Any], Verdict]:
    """:func:`close`; on a GPU torch's convolutions keep 10 bits of what they multiply, unless told otherwise."""
    tolerance = max(tolerance, 1e-2) if options.cuda else tolerance
    return close(tolerance, tolerance)


def _tensors(output: Any) -> list[Tensor]:
    """Detached and dense, whatever the layout."""
    return [part.detach().contiguous() for part in tree_leaves(output)]
