"""Non-maximum suppression in its forms: of one set, of a batch, of rotated boxes, and the soft one."""

from fastvision.ops.nms.nms import batched_nms, nms
from fastvision.ops.nms.nms_padded import nms_padded
from fastvision.ops.nms.nms_rotated import nms_rotated
from fastvision.ops.nms.soft_nms import soft_nms

__all__ = ["batched_nms", "nms", "nms_padded", "nms_rotated", "soft_nms"]
