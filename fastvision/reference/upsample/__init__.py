"""Upsampling in plain PyTorch, one file per op."""

from fastvision.reference.upsample.bilinear_kernel import bilinear_kernel
from fastvision.reference.upsample.conv_transpose1d import conv_transpose1d
from fastvision.reference.upsample.conv_transpose2d import conv_transpose2d
from fastvision.reference.upsample.max_pool2d_with_indices import max_pool2d_with_indices
from fastvision.reference.upsample.max_unpool2d import max_unpool2d
from fastvision.reference.upsample.unlearned import bed_of_nails_upsample, check_factor, nearest_upsample

__all__ = [
    "bed_of_nails_upsample",
    "bilinear_kernel",
    "check_factor",
    "conv_transpose1d",
    "conv_transpose2d",
    "max_pool2d_with_indices",
    "max_unpool2d",
    "nearest_upsample",
]
