"""Style transfer, one file per op."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases.style import content_loss, gram_matrix, instance_norm, total_variation_loss

_FILES = (gram_matrix, instance_norm, total_variation_loss, content_loss)
CASES: tuple[OpCase, ...] = tuple(case for file in _FILES for case in file.CASES)
