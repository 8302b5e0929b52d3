"""Upsampling in plain PyTorch, one file per op."""

from fastvision.reference.upsample.bilinear_kernel import bilinear_kernel
from fastvision.reference.upsample.max_pool2d_with_indices import max_pool2d_with_indices
from fastvision.reference.upsample.max_unpool2d import max_unpool2d

__all__ = ["bilinear_kernel", "max_pool2d_with_indices", "max_unpool2d"]
