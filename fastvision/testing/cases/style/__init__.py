"""Style transfer, one file per op."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases.style import gram_matrix

_FILES = (gram_matrix,)
CASES: tuple[OpCase, ...] = tuple(case for file in _FILES for case in file.CASES)
