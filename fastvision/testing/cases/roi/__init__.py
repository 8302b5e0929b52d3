"""RoI pooling, one file per op."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases.roi import roi_align

CASES: tuple[OpCase, ...] = roi_align.CASES
