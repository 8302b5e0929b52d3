"""RoI pooling in plain PyTorch, one file per op."""

from fastvision.reference.roi.crop_and_resize import crop_and_resize
from fastvision.reference.roi.multiscale_roi_align import multiscale_roi_align
from fastvision.reference.roi.ps_roi_align import ps_roi_align
from fastvision.reference.roi.ps_roi_pool import ps_roi_pool
from fastvision.reference.roi.roi_align import roi_align
from fastvision.reference.roi.roi_align_rotated import roi_align_rotated
from fastvision.reference.roi.roi_pool import roi_pool
from fastvision.reference.roi.spatial_pyramid_pool import spatial_pyramid_pool

__all__ = [
    "crop_and_resize",
    "multiscale_roi_align",
    "ps_roi_align",
    "ps_roi_pool",
    "roi_align",
    "roi_align_rotated",
    "roi_pool",
    "spatial_pyramid_pool",
]
