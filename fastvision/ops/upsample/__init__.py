"""From small maps to large ones."""

from fastvision.ops.upsample.bilinear_kernel import bilinear_kernel
from fastvision.ops.upsample.max_pool2d_with_indices import max_pool2d_with_indices
from fastvision.ops.upsample.max_unpool2d import MaxUnpool2d, max_unpool2d

__all__ = ["MaxUnpool2d", "bilinear_kernel", "max_pool2d_with_indices", "max_unpool2d"]
