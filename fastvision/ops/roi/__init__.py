"""RoI pooling, one file per op."""

from fastvision.ops.roi.roi_align import RoIAlign, roi_align

__all__ = ["RoIAlign", "roi_align"]
