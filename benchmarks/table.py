"""``python -m benchmarks.table RESULTS.json [docs/benchmarks.md]``: its table from a measured JSON file."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"


def table(measured: Mapping[str, Any]) -> str:
    """Markdown: one row a workload, our time, torchvision's ratio and the nearest other rival's."""
    machine = measured["machine"]
    lines = [
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"torchvision {machine.get('torchvision', '-')}. The others' times are ratios to ours, medians of interleaved "
        "runs.",
        "",
        "| workload | fastvision, ms | torchvision | nearest other |",
        "|---|---:|---:|---|",
    ]
    for result in measured["results"]:
        ours, *rivals = result["contenders"]
        ratios = {c["label"]: c["ratio"] for c in rivals if c.get("ratio") is not None}
        theirs = ratios.pop("torchvision", None)
        nearest = min(ratios, key=lambda label: ratios[label], default=None)
        lines.append(
            f"| {result['family']}: {result['name']} | {1e3 * ours['median_s']:.3g} "
            f"| {f'{theirs:.3g}x' if theirs else ''} | {f'{nearest} {ratios[nearest]:.3g}x' if nearest else ''} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    measured = json.loads(Path(argv[0]).read_text())
    page = Path(argv[1] if len(argv) > 1 else "docs/benchmarks.md")
    head, _, rest = page.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    page.write_text(f"{head}{BEGIN}\n{table(measured)}\n{END}{tail}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
