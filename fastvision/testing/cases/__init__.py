"""The table: one :class:`OpCase` for every public op. Tests and benchmarks both parametrize over it."""

from fastvision.testing.case import OpCase
from fastvision.testing.cases import boxes, masks, nms, proposals, roi, style, upsample

_FAMILIES = (boxes, masks, nms, proposals, roi, style, upsample)
CASES: tuple[OpCase, ...] = tuple(case for family in _FAMILIES for case in family.CASES)
