"""Upsampling: transposed convolutions, pooling and unpooling as in DeconvNet, and what is not learned."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.upsample import conv_transpose2d, max_pool2d_with_indices, max_unpool2d, whole_factor
from benchmarks.workload import Options, Workload


def workloads(options: Options) -> Iterator[Workload]:
    yield from conv_transpose2d.workloads(options)
    yield from max_pool2d_with_indices.workloads(options)
    yield from max_unpool2d.workloads(options)
    yield from whole_factor.workloads(options)
