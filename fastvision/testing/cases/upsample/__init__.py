"""Upsampling, one file per op."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases.upsample import conv_transpose2d

_FILES = (conv_transpose2d,)
CASES: tuple[OpCase, ...] = tuple(case for file in _FILES for case in file.CASES)
