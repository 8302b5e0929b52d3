"""Upsampling in plain PyTorch, one file per op."""

from fastvision.reference.upsample.conv_transpose1d import conv_transpose1d
from fastvision.reference.upsample.conv_transpose2d import conv_transpose2d
from fastvision.reference.upsample.unlearned import bed_of_nails_upsample, check_factor, nearest_upsample

__all__ = ["bed_of_nails_upsample", "check_factor", "conv_transpose1d", "conv_transpose2d", "nearest_upsample"]
