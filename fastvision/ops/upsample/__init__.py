"""Upsampling, one file per op."""

from fastvision.ops.upsample.bed_of_nails_upsample import bed_of_nails_upsample
from fastvision.ops.upsample.bilinear_kernel import bilinear_kernel
from fastvision.ops.upsample.conv_transpose1d import conv_transpose1d
from fastvision.ops.upsample.conv_transpose2d import ConvTranspose2d, conv_transpose2d
from fastvision.ops.upsample.max_pool2d_with_indices import max_pool2d_with_indices
from fastvision.ops.upsample.max_unpool2d import MaxUnpool2d, max_unpool2d
from fastvision.ops.upsample.nearest_upsample import nearest_upsample

__all__ = [
    "ConvTranspose2d",
    "MaxUnpool2d",
    "bed_of_nails_upsample",
    "bilinear_kernel",
    "conv_transpose1d",
    "conv_transpose2d",
    "max_pool2d_with_indices",
    "max_unpool2d",
    "nearest_upsample",
]
