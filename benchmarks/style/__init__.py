"""Style transfer: Gram matrices, the style loss, instance normalisation, total variation."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.style import gram_matrix, instance_norm
from benchmarks.workload import Options, Workload


def workloads(options: Options) -> Iterator[Workload]:
    yield from gram_matrix.workloads(options)
    yield from instance_norm.workloads(options)
