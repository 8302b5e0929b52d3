"""RoI pooling, one file per op."""

from fastvision.ops.roi.crop_and_resize import crop_and_resize
from fastvision.ops.roi.multiscale_roi_align import MultiScaleRoIAlign, multiscale_roi_align
from fastvision.ops.roi.ps_roi_align import PSRoIAlign, ps_roi_align
from fastvision.ops.roi.ps_roi_pool import PSRoIPool, ps_roi_pool
from fastvision.ops.roi.roi_align import RoIAlign, roi_align
from fastvision.ops.roi.roi_align_rotated import RoIAlignRotated, roi_align_rotated
from fastvision.ops.roi.roi_pool import RoIPool, roi_pool
from fastvision.ops.roi.spatial_pyramid_pool import SpatialPyramidPool, spatial_pyramid_pool

__all__ = [
    "MultiScaleRoIAlign",
    "PSRoIAlign",
    "PSRoIPool",
    "RoIAlign",
    "RoIAlignRotated",
    "RoIPool",
    "SpatialPyramidPool",
    "crop_and_resize",
    "multiscale_roi_align",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_align_rotated",
    "roi_pool",
    "spatial_pyramid_pool",
]
