"""RoI pooling, one file per op."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases.roi import (
    crop_and_resize,
    multiscale_roi_align,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_align_rotated,
    roi_pool,
    spatial_pyramid_pool,
)

_FILES = (
    roi_align,
    multiscale_roi_align,
    roi_align_rotated,
    roi_pool,
    ps_roi_align,
    ps_roi_pool,
    crop_and_resize,
    spatial_pyramid_pool,
)
CASES: tuple[OpCase, ...] = tuple(case for file in _FILES for case in file.CASES)
