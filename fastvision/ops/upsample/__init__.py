"""Upsampling, one file per op."""

from fastvision.ops.upsample.conv_transpose1d import conv_transpose1d
from fastvision.ops.upsample.conv_transpose2d import ConvTranspose2d, conv_transpose2d
from fastvision.ops.upsample.unlearned import bed_of_nails_upsample, nearest_upsample

__all__ = ["ConvTranspose2d", "bed_of_nails_upsample", "conv_transpose1d", "conv_transpose2d", "nearest_upsample"]
