"""``python -m benchmarks.sweep``: conv_transpose2d against torch's on a list of layers, to show that none is slower.

Prints each ratio and the worst, and draws them all; a line below 0.95 is a loss. Of as many layers some always meet a
busy neighbour: those that come out below 1 are timed once more, four times as long, and the second figure counts, on
whichever side of the line it falls. On a GPU a second ratio is that of both as CUDA graphs, without what it costs to
launch them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graphs import graphed
from benchmarks.upsample.shapes import LAYOUTS, Shape, shapes
from fastvision import ops
from fastvision.ops.upsample.kernel_choice import plan
from fastvision.testing import data
from fastvision.testing.timing import compare, machine_facts

LEAST = 0.95


@dataclass(frozen=True)
class Point:
    """Seconds a call, medians; ``ratio``: torch's by ours; ``spread``: between its quartiles over rounds.

    ``graphed``: the ratio of CUDA graphs, where there is a GPU.
    """

    name: str
    layout: str
    kernel: str
    ours: float
    torch: float
    ratio: float
    spread: float
    largest_difference: float
    graphed: float | None = None


def measure(shape: Shape, layout: str, budget_s: float, device: str, gradients: bool = False) -> Point:
    """gradients: forward, and backward to input and weight, through autograd."""
    features, weight = shape.tensors(device)
    features = features.to(memory_format=LAYOUTS[layout]).requires_grad_(gradients)
    weight = weight.requires_grad_(gradients)
    expected = F.conv_transpose2d(features, weight, None, *shape.arguments).detach()
    grad = data.feature_map(*expected.shape, seed=1).to(expected, memory_format=LAYOUTS[layout])

    def call(function: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        output = function(features, weight, None, *shape.arguments)
        return torch.autograd.grad(output, (features, weight), grad) if gradients else (output,)

    def ours() -> tuple[Tensor, ...]:
        return call(ops.conv_transpose2d)

    def theirs() -> tuple[Tensor, ...]:
        return call(F.conv_transpose2d)

    pairs = zip(ours(), theirs(), strict=True)
    difference = max(float((o - t).abs().max() / (1 + t.abs().max())) for o, t in pairs)
    calls = {"ours": ours, "torch": theirs}
    times = compare(calls, budget_s=budget_s, min_rounds=7, device=device)
    ratio = times["torch"].ratio_to(times["ours"])
    pairwise = [t / o for t, o in zip(times["torch"].seconds, times["ours"].seconds, strict=False)]
    low, _, high = statistics.quantiles(pairwise, n=4)
    graphed_ratio = None
    if features.is_cuda and not gradients:
        recorded = {label: graphed(call) for label, call in calls.items()}
        graphs = compare(recorded, budget_s=budget_s, min_rounds=7, device=device)
        graphed_ratio = graphs["torch"].ratio_to(graphs["ours"])
    chosen = plan(features, weight, *shape.arguments, 1)
    kernel = chosen.kernel
    if gradients:
        kernel = "fastvision" if chosen.own_gradients else "torch" if chosen.torch_trains else kernel
    medians = times["ours"].median, times["torch"].median
    return Point(shape.name, layout, kernel, *medians, ratio, high - low, difference, graphed_ratio)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--plot", metavar="FILE", help="write a PNG of the ratios (needs matplotlib)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--gradients", action="store_true", help="forward and backward, instead of forward alone")
    parser.add_argument("--seconds", type=float, default=0.6, help="of timing for each layer and layout")
    arguments = parser.parse_args(argv)
    facts, points = machine_facts(), []
    for shape in shapes():
        for layout in LAYOUTS:
            point = measure(shape, layout, arguments.seconds, arguments.device, arguments.gradients)
            if point.ratio < 1:
                print(f"{point.ratio:7.2f}x; again:", flush=True)
                point = measure(shape, layout, 4 * arguments.seconds, arguments.device, arguments.gradients)
            points.append(point)
            graphs = "" if point.graphed is None else f"{point.graphed:7.2f}x graphed"
            print(
                f"{point.ratio:7.2f}x +-{point.spread:5.2f}{graphs}  {point.ours * 1e3:9.3f} ms  {point.kernel:10} "
                f"{layout:13} {point.name}",
                flush=True,
            )
    worst = min(points, key=lambda p: p.ratio)
    # torch's convolutions on a GPU keep 10 bits of what they multiply, unless told otherwise
    wrong = [p for p in points if not p.largest_difference < (2e-3 if arguments.device == "cuda" else 1e-4)]
    print(f"{len(points)} layers; worst {worst.ratio:.2f}x: {worst.name} {worst.layout}")
    losses, middle = sum(p.ratio < LEAST for p in points), statistics.median(p.ratio for p in points)
    print(f"{losses} below {LEAST}x; median {middle:.2f}x")
    for point in wrong:
        print(f"wrong: {point.name} {point.layout}: {point.largest_difference:.1e}", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": facts, "points": [asdict(p) for p in points]}, indent=1))
    if arguments.plot:
        where = facts["gpu"] if arguments.device == "cuda" else f"{facts['cpu']}, {facts['threads']} threads"
        what = "conv_transpose2d with its gradients" if arguments.gradients else "conv_transpose2d"
        _plot(points, f"{what} on {where}", Path(arguments.plot))
    return 1 if wrong else 0


def _plot(points: Sequence[Point], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    ordered = sorted(points, key=lambda p: p.ratio)
    figure = Figure(figsize=(9, 0.17 * len(ordered) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    colours = {"fastvision": "#1f77b4", "torch": "#999999", "product": "#2ca02c"}
    axes.barh(range(len(ordered)), [p.ratio for p in ordered], color=[colours[p.kernel] for p in ordered])
    axes.set_yticks(range(len(ordered)), [f"{p.name} {p.layout}" for p in ordered], fontsize=5)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.axvline(LEAST, color="red", linewidth=0.8, linestyle=":")
    axes.set_xlabel(
        f"torch's time by ours; blue: our kernel, green: a matrix product, grey: torch's own; dotted: {LEAST}"
    )
    axes.set_title(f"{title}: worst {ordered[0].ratio:.2f}x", fontsize=9)
    axes.margins(y=0.01)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
