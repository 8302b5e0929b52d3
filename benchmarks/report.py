"""Results as a table, as JSON with the machine's facts, and as a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workload import OURS, Result, Row, rate_of
from fastvision.testing.timing import Ceiling

_HEADINGS = (
    "workload",
    "contender",
    "output",
    "median ms",
    "spread",
    "rounds",
    "ratio",
    "target",
    "rate",
    "of ceiling",
)
_LEFT = 3  # so many columns are text, the others are numbers


def show(family: str, results: Sequence[Result], limits: Ceiling) -> None:
    """One family as a table; with rich where it is installed."""
    extra = list(dict.fromkeys(name for result in results for name in result.columns))
    headings = [*_HEADINGS, *extra]
    groups = [_group(result, extra, limits) for result in results]
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        _show_plain([headings, *(line for group in groups for line in group)])
    else:
        table = Table(title=family, title_justify="left", title_style="bold", header_style="bold")
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="left" if i < _LEFT else "right", no_wrap=i != 0)
        for group in groups:
            for line in group:
                table.add_row(*(Text(cell, style=_style(cell)) for cell in line))
            table.add_section()
        console = Console()
        # a file or a pipe has no width of its own: nothing is cut there
        console.print(table) if console.is_terminal else Console(width=190).print(table)
    for result in results:
        for label, why in {**result.skipped, **result.failed}.items():
            print(f"  {result.name}: {label} {'FAILED' if label in result.failed else 'left out'}: {why}")


def _style(cell: str) -> str:
    if cell.endswith(" missed") or cell.startswith("WRONG"):
        return "bold red"
    if cell.endswith(" met"):
        return "green"
    return "cyan" if cell == OURS else ""


def _show_plain(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        cells = [c.ljust(w) if i < _LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(cells).rstrip())


def _group(result: Result, extra: Sequence[str], limits: Ceiling) -> list[list[str]]:
    lines = []
    for i, row in enumerate(result.rows):
        rate = rate_of(result.work, row.timing.median, limits)
        first = i == 0
        lines.append(
            [
                result.name if first else "",
                row.label,
                row.verdict.text if row.verdict.ok else f"WRONG: {row.verdict.text}",
                _ms(row.timing.median),
                f"{100 * row.timing.spread:.0f} %",
                str(row.timing.n),
                "" if row.label == OURS else f"{_ratio(row.ratio)}x",
                "" if row.met is None else f"{row.target:g}x {'met' if row.met else 'missed'}",
                f"{_few_digits(rate.value)} {rate.unit}" if rate else "",
                f"{_few_digits(100 * rate.share)} %" if rate else "",
                *(str(result.columns.get(name, "")) if first else "" for name in extra),
            ]
        )
    return lines


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3f}" if ms < 10 else f"{ms:.1f}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def _few_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}" if value >= 0.1 else "<0.1"


def show_summary(results: Sequence[Result]) -> None:
    """Targets met and missed, and the outputs that are wrong."""
    aimed = [(result, row) for result in results for row in result.rows if row.met is not None]
    missed = [(result, row) for result, row in aimed if not row.met]
    print(f"\ntargets: {len(aimed) - len(missed)} met, {len(missed)} missed")
    for result, row in missed:
        print(f"  missed: {result.family} {result.name}: {row.label} {_ratio(row.ratio)}x, target {row.target:g}x")
    for result in results:
        for row in result.rows:
            if not row.verdict.ok:
                print(f"  WRONG: {result.family} {result.name}: {row.label}: {row.verdict.text}")
        for label, why in result.failed.items():
            print(f"  FAILED: {result.family} {result.name}: {label}: {why}")


def write_json(
    path: str | Path,
    results: Sequence[Result],
    facts: Mapping[str, str | int],
    ceilings: Mapping[str, Ceiling],
    device: str,
    notes: Sequence[str],
) -> None:
    """Everything that the table has, unrounded; times in seconds."""
    limits = ceilings[device]
    aimed = [row for result in results for row in result.rows if row.met is not None]
    document = {
        "machine": dict(facts),
        "ceilings": {name: {"copy_gbps": c.copy_gbps, "sgemm_gflops": c.sgemm_gflops} for name, c in ceilings.items()},
        "device": device,
        "notes": list(notes),
        "targets": {"met": sum(row.met is True for row in aimed), "missed": sum(row.met is False for row in aimed)},
        "results": [_json_result(result, limits) for result in results],
    }
    Path(path).write_text(json.dumps(document, indent=1) + "\n")


def _json_result(result: Result, limits: Ceiling) -> dict[str, Any]:
    work = result.work
    return {
        "family": result.family,
        "name": result.name,
        "columns": dict(result.columns),
        "work": None if work is None else {"bytes": work.bytes, "flops": work.flops},
        "contenders": [_json_row(row, result, limits) for row in result.rows],
        "skipped": dict(result.skipped),
        "failed": dict(result.failed),
    }


def _json_row(row: Row, result: Result, limits: Ceiling) -> dict[str, Any]:
    rate = rate_of(result.work, row.timing.median, limits)
    low, high = row.timing.quartiles
    return {
        "label": row.label,
        "output": row.verdict.text,
        "ok": row.verdict.ok,
        "median_s": row.timing.median,
        "lower_quartile_s": low,
        "upper_quartile_s": high,
        "rounds": row.timing.n,
        "calls_per_round": row.timing.calls,
        "ratio": row.ratio,
        "target": row.target,
        "met": row.met,
        "rate": None if rate is None else {"value": rate.value, "unit": rate.unit, "share_of_ceiling": rate.share},
    }


def write_plot(path: str | Path, results: Sequence[Result], title: str) -> None:
    """Bars of how many times longer than ours each contender takes, on a logarithmic axis; ticks are targets."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image  # comes with matplotlib

    shown = [result for result in results if len(result.rows) > 1]
    labels = list(dict.fromkeys(row.label for result in shown for row in result.rows if row.label != OURS))
    families = list(dict.fromkeys(result.family for result in shown))
    lines = {family: sum(len(r.rows) for r in shown if r.family == family) for family in families}
    figure = Figure(figsize=(10, 1.4 + 0.21 * max(sum(lines.values()), 4) + 0.5 * len(families)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9, color="#555555")
    heights = [lines[family] for family in families] or [1]
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, family in zip(panels, families, strict=False):
        _plot_family(axes, [result for result in shown if result.family == family], labels)
        axes.set_title(family, loc="left", fontsize=10, fontweight="bold")
    _widen(list(panels))
    panels[-1].set_xlabel(f"time relative to {OURS}, times (logarithmic; right of 1: {OURS} is faster)", fontsize=9)
    _legend(figure, labels)
    figure.savefig(path, dpi=100)
    with Image.open(path) as drawn:
        few_colours = drawn.convert("RGB").quantize(64)
    few_colours.save(path, optimize=True)  # a third of the size


def _plot_family(axes: Any, results: Sequence[Result], labels: Sequence[str]) -> None:
    position, ticks = 0.0, []
    for result in results:
        rows = [row for row in result.rows if row.label != OURS]
        columns = "".join(f"\n{name} {value}" for name, value in result.columns.items())
        ticks.append((position + (len(rows) - 1) / 2, result.name.replace(", ", "\n", 1) + columns))
        for row in rows:
            axes.barh(position, row.ratio - 1, left=1, height=0.85, color=_colour(labels, row.label))
            if row.target is not None:
                axes.plot([row.target, row.target], [position - 0.5, position + 0.5], color="black", linewidth=1.6)
            _write_ratio(axes, position, row)
            position += 1
        position += 1
    axes.set_xscale("log")
    axes.set_ylim(position - 1, -1)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.axvline(1, color="#333333", linewidth=1)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _write_ratio(axes: Any, position: float, row: Row) -> None:
    """Right of the bar; inside it where the mark of the target would cross the number."""
    text, end = f"{_ratio(row.ratio)}x", max(row.ratio, 1.0)
    if row.target is not None and 2 < end < row.target < 1.6 * end:
        axes.text(end / 1.05, position, text, va="center", ha="right", fontsize=7, color="white")
    else:
        axes.text(1.05 * end, position, text, va="center", fontsize=7, color="#333333")


def _widen(panels: Sequence[Any]) -> None:
    """Room for the numbers, in all panels alike."""
    low, high = panels[0].get_xlim()
    panels[0].set_xlim(low, high * 1.6)


def _colour(labels: Sequence[str], label: str) -> str:
    # Okabe and Ito's palette, distinguishable with any colour vision
    palette = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")
    return palette[list(labels).index(label) % len(palette)]


def _legend(figure: Any, labels: Sequence[str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_colour(labels, label), label=label) for label in labels]
    handles.append(Line2D([], [], color="black", linewidth=1.6, label="target"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5), fontsize=8, frameon=False)
