"""``python -m benchmarks.scaling``: how the cost of an op grows with one size, and the memory it takes.

Cost should be linear: between neighbouring sizes the time may not grow more than 1.3 times as much as the size. That
growth by growth is the step; below 1, the fixed cost of a call is being shared by more work.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import extra_memory_mb
from fastvision import ops
from fastvision.testing import data
from fastvision.testing.timing import compare, machine_facts

LARGEST_STEP = 1.3
_ROIS = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
_BOXES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
_CHANNELS = (16, 32, 64, 128, 256, 512, 1024)
_HEIGHT, _WIDTH, _SCALE = 200, 272, 0.25


@dataclass(frozen=True)
class Series:
    """One op at growing sizes; ``make(size)`` prepares its input and returns the call."""

    name: str
    unit: str
    sizes: Sequence[int]
    make: Callable[[int], Callable[[], Any]]


@dataclass(frozen=True)
class Point:
    """``step``: growth of the time by growth of the size since the point before. ``extra_mb``: the call's largest
    resident memory beyond its input and output, in millions of bytes."""

    size: int
    seconds: float
    step: float | None
    extra_mb: float | None


def series() -> Iterator[Series]:
    # what fresh memory costs: on some machines the last gigabytes are dearer than the first
    yield Series("filling the output", "rois", _ROIS, lambda k: lambda: torch.empty(k, 256, 7, 7).fill_(1))
    for last in (False, True):
        layout = "channels_last" if last else "NCHW"
        yield Series(f"roi_align forward {layout}", "rois", _ROIS, lambda k, last=last: _forward(k, 256, last))
        yield Series(f"roi_align backward {layout}", "rois", _ROIS, lambda k, last=last: _backward(k, 256, last))
    for last in (False, True):
        layout = "channels_last" if last else "NCHW"
        yield Series(
            f"roi_align forward {layout}, 512 rois", "channels", _CHANNELS, lambda c, last=last: _forward(512, c, last)
        )
    yield Series("roi_align backward NCHW, 512 rois", "channels", _CHANNELS, lambda c: _backward(512, c, False))
    for name, boxes in (("random", _spread), ("clustered", _clustered), ("RPN-like", data.rpn_boxes)):
        yield Series(f"nms {name}", "boxes", _BOXES, lambda n, boxes=boxes: _nms(boxes(n)))


def _spread(count: int) -> Tensor:
    """As crowded as 1000 boxes on 1000 x 1000 pixels, whatever their number: K is 0.8 of it."""
    return data.random_boxes(count, 1000.0 * (count / 1000) ** 0.5, 225.0)


def _clustered(count: int) -> Tensor:
    """100 boxes around each object, the objects as far apart as ever."""
    clusters = max(1, count // 100)
    return data.clustered_boxes(count, clusters, 1000.0 * (clusters / 100) ** 0.5)


def _nms(boxes: Tensor) -> Callable[[], Tensor]:
    scores = data.scores(len(boxes))
    return lambda: ops.nms(boxes, scores, 0.5)


def _rois(count: int) -> Tensor:
    return data.random_rois(count, 2, _HEIGHT / _SCALE, _WIDTH / _SCALE)


def _forward(count: int, channels: int, channels_last: bool) -> Callable[[], Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = data.feature_map(2, channels, _HEIGHT, _WIDTH).to(memory_format=layout)
    rois = _rois(count)
    return lambda: ops.roi_align(features, rois, 7, _SCALE, 2)


def _backward(count: int, channels: int, channels_last: bool) -> Callable[[], Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    grad = torch.empty(count, channels, 7, 7, memory_format=layout).fill_(0.5)
    rois = _rois(count)
    op = torch.ops.fastvision.roi_align_backward
    return lambda: op(grad, rois, _SCALE, 2, _HEIGHT, _WIDTH, 2, False, channels_last, False)


def measure(one: Series) -> list[Point]:
    points: list[Point] = []
    for size in one.sizes:
        call = one.make(size)
        extra = extra_memory_mb(call)
        seconds = compare({"": call}, budget_s=1.0)[""].median
        before = points[-1] if points else None
        step = None if before is None else seconds / before.seconds / (size / before.size)
        points.append(Point(size, seconds, step, extra))
        del call
        gc.collect()
    return points


def show(one: Series, points: Sequence[Point]) -> None:
    print(f"\n{one.name}")
    print(f"{one.unit:>10} {'ms':>10} {'us each':>10} {'step':>6} {'extra MB':>9}")
    for p in points:
        step = "" if p.step is None else f"{p.step:.2f}"
        extra = "-" if p.extra_mb is None else f"{p.extra_mb:.1f}"
        print(f"{p.size:>10} {1e3 * p.seconds:>10.3f} {1e6 * p.seconds / p.size:>10.2f} {step:>6} {extra:>9}")
    worst = max((p.step for p in points if p.step is not None), default=0.0)
    print(f"worst step {worst:.2f}, {'met' if worst <= LARGEST_STEP else 'missed'}: at most {LARGEST_STEP}", flush=True)


def write_plot(path: str, measured: Sequence[tuple[Series, list[Point]]], title: str) -> None:
    """Microseconds per roi or channel over their number, on logarithmic axes: linear cost is a level line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(one.unit for one, _ in measured))
    figure = Figure(figsize=(5.2 * len(units), 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, color="#555555")
    panels = figure.subplots(1, len(units), squeeze=False)[0]
    for axes, unit in zip(panels, units, strict=True):
        for one, points in measured:
            if one.unit == unit:
                axes.plot([p.size for p in points], [1e6 * p.seconds / p.size for p in points], "o-", label=one.name)
        axes.set(xscale="log", yscale="log", xlabel=unit, ylabel=f"us for each of the {unit}")
        axes.grid(which="both", color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only series whose name contains one of these")
    parser.add_argument("--largest", type=int, help="leave out larger sizes")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--plot", metavar="FILE", help="write a PNG (needs matplotlib)")
    arguments = parser.parse_args(argv)
    facts = machine_facts()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    measured: list[tuple[Series, list[Point]]] = []
    for one in series():
        if arguments.names and not any(name in one.name for name in arguments.names):
            continue
        sizes = [size for size in one.sizes if not arguments.largest or size <= arguments.largest]
        one = Series(one.name, one.unit, sizes, one.make)
        points = measure(one)
        show(one, points)
        measured.append((one, points))
    if arguments.json:
        document = {
            "machine": facts,
            "series": [
                {"name": o.name, "unit": o.unit, "points": [asdict(p) for p in points]} for o, points in measured
            ],
        }
        Path(arguments.json).write_text(json.dumps(document, indent=1) + "\n")
    if arguments.plot:
        title = f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, {facts['date']}"
        write_plot(arguments.plot, measured, title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
