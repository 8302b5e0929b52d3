"""RoI pooling, one file per op."""

from collections.abc import Iterator

from benchmarks.roi import roi_align
from benchmarks.workload import Options, Workload


def workloads(options: Options) -> Iterator[Workload]:
    yield from roi_align.workloads(options)
