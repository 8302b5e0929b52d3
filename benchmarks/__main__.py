"""``python -m benchmarks``: times every op against its rivals, in turns, and compares their outputs.

Exit codes: 0 done, 1 an output is wrong, 2 nothing to measure. Targets are printed, not enforced.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

import fastvision
from benchmarks import boxes, masks, nms, proposals, report, roi, style, upsample
from benchmarks.workload import Options, Result, Workload, missing, run
from fastvision.testing.timing import Ceiling, ceiling, machine_facts

FAMILIES: dict[str, Callable[[Options], Iterator[Workload]]] = {
    "nms": nms.workloads,
    "roi": roi.workloads,
    "boxes": boxes.workloads,
    "proposals": proposals.workloads,
    "masks": masks.workloads,
    "upsample": upsample.workloads,
    "style": style.workloads,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code. ``argv`` defaults to the process's arguments."""
    arguments = _parse(argv)
    if fastvision.BACKEND == "reference":
        print("fastvision's compiled library is not loaded, so there is nothing to measure; see `fastvision doctor`")
        return 2
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no GPU here")
        return 2
    if arguments.threads:
        _limit_threads(arguments.threads)
    facts = machine_facts()
    ceilings = {device: ceiling(device) for device in dict.fromkeys(("cpu", arguments.device))}
    _show_machine(facts, ceilings)
    options = Options(arguments.device, arguments.quick)
    results: list[Result] = []
    for family in arguments.families or FAMILIES:
        chosen = (workload for workload in FAMILIES[family](options) if arguments.only in workload.name)
        found = [_run(workload, options) for workload in chosen]
        if found:
            report.show(family, found, ceilings[arguments.device])
        results += found
    if not results:
        print(f"no workload has {arguments.only!r} in its name")
        return 2
    if arguments.device == "cuda":
        print("left out: OpenVINO, OpenCV, lsnms and powerboxes suppress on the CPU only")
    if {"nms", "roi"} & set(arguments.families or FAMILIES):
        print("left out: compiled references whose loops depend on data and break the graph: all but box ops and")
        print("roi_align_rotated with a fixed number of samples")
    for line in missing():
        print(line)
    report.show_summary(results)
    if arguments.json:
        report.write_json(arguments.json, results, facts, ceilings, arguments.device, missing())
    if arguments.plot:
        report.write_plot(arguments.plot, results, _title(facts, arguments.device))
    return 0 if all(result.ok for result in results) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Times every op against its rivals.")
    parser.add_argument("families", nargs="*", metavar="family", help=f"any of {', '.join(FAMILIES)}; default all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and rivals; the workloads stay as they are")
    parser.add_argument("--only", metavar="TEXT", default="", help="workloads with TEXT in their name")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--plot", metavar="FILE", help="write a PNG of the ratios (needs matplotlib)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads for every contender that lets one choose")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args(argv)
    unknown = [family for family in arguments.families if family not in FAMILIES]
    if unknown:
        parser.error(f"expected families of {', '.join(FAMILIES)}, got {', '.join(unknown)}")
    if arguments.threads is not None and arguments.threads < 1:
        parser.error(f"expected --threads of at least 1, got {arguments.threads}")
    return arguments


def _limit_threads(count: int) -> None:
    """Before any rival is imported: rayon (lsnms, powerboxes) reads its variable once. OpenVINO follows torch."""
    torch.set_num_threads(count)
    os.environ["RAYON_NUM_THREADS"] = str(count)
    try:
        import cv2
    except ImportError:
        return
    cv2.setNumThreads(count)


def _run(workload: Workload, options: Options) -> Result:
    print(f"measuring {workload.family}: {workload.name}", file=sys.stderr, flush=True)
    return run(workload, options)


def _show_machine(facts: dict[str, str | int], ceilings: dict[str, Ceiling]) -> None:
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"fastvision {fastvision.__version__}, {fastvision.BACKEND} backend")
    if fastvision.BACKEND == "emulated":
        print("emulated kernels are a test instrument: their times mean nothing")
    for device, limits in ceilings.items():
        print(f"{device} ceiling: copy {limits.copy_gbps:.1f} GB/s, sgemm {limits.sgemm_gflops:.0f} GFLOP/s")
    print("ratio: a contender's time by ours, median over rounds; spread: interquartile range by median")
    print("rate: least traffic or arithmetic by time; more than the ceiling where the data stays in cache", flush=True)


def _title(facts: dict[str, str | int], device: str) -> str:
    where = facts["gpu"] if device == "cuda" else f"{facts['cpu']}, {facts['threads']} threads"
    return f"fastvision {fastvision.__version__} on {where}, torch {facts['torch']}, {facts['date']}"


if __name__ == "__main__":
    sys.exit(main())
