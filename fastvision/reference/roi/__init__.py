"""RoI pooling in plain PyTorch, one file per op."""

from fastvision.reference.roi.roi_align import roi_align

__all__ = ["roi_align"]
