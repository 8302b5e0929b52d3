"""RoI pooling, one file per op."""

from collections.abc import Iterator

from benchmarks.roi import multiscale_roi_align, position_sensitive, roi_align, roi_pool
from benchmarks.workload import Options, Workload


def workloads(options: Options) -> Iterator[Workload]:
    yield from roi_align.workloads(options)
    yield from multiscale_roi_align.workloads(options)
    yield from roi_pool.workloads(options)
    yield from position_sensitive.workloads(options)
