"""Non-maximum suppression in plain PyTorch."""

from fastvision.reference.nms.nms import batched_nms, nms, rank
from fastvision.reference.nms.nms_padded import nms_padded
from fastvision.reference.nms.nms_rotated import nms_rotated
from fastvision.reference.nms.soft_nms import soft_nms

__all__ = ["batched_nms", "nms", "nms_padded", "nms_rotated", "rank", "soft_nms"]
