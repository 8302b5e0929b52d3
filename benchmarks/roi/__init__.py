"""RoI pooling, one file per op."""

from collections.abc import Iterator

from benchmarks.roi import (
    crop_and_resize,
    multiscale_roi_align,
    position_sensitive,
    roi_align,
    roi_align_rotated,
    roi_pool,
    spatial_pyramid_pool,
)
from benchmarks.workload import Options, Workload

_FILES = (
    roi_align,
    multiscale_roi_align,
    roi_align_rotated,
    roi_pool,
    position_sensitive,
    spatial_pyramid_pool,
    crop_and_resize,
)


def workloads(options: Options) -> Iterator[Workload]:
    for file in _FILES:
        yield from file.workloads(options)
