"""Upsampling: transposed convolutions and the unpooling layers of DeconvNet."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.upsample import conv_transpose2d, max_unpool2d
from benchmarks.workload import Options, Workload


def workloads(options: Options) -> Iterator[Workload]:
    yield from conv_transpose2d.workloads(options)
    yield from max_unpool2d.workloads(options)
