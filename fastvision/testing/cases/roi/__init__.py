"""RoI pooling, one file per op."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases.roi import multiscale_roi_align, roi_align, roi_pool

CASES: tuple[OpCase, ...] = roi_align.CASES + multiscale_roi_align.CASES + roi_pool.CASES
