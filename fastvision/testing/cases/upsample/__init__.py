"""Upsampling, one file per op."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases.upsample import (
    bilinear_kernel,
    conv_transpose2d,
    max_pool2d_with_indices,
    max_unpool2d,
)

_FILES = (conv_transpose2d, bilinear_kernel, max_pool2d_with_indices, max_unpool2d)
CASES: tuple[OpCase, ...] = tuple(case for file in _FILES for case in file.CASES)
