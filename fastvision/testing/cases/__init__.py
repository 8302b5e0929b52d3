"""The table: one :class:`OpCase` for every public op. Tests and benchmarks both parametrize over it."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases import boxes, masks, nms, proposals, roi, style

CASES: tuple[OpCase, ...] = boxes.CASES + masks.CASES + nms.CASES + proposals.CASES + roi.CASES + style.CASES
