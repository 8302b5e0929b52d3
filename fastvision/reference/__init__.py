"""Every op once more in plain PyTorch, written to be read.

The oracle of the tests, a baseline of the benchmarks, and what runs where the compiled library cannot be loaded.
"""

from fastvision.reference import boxes, masks, nms, proposals, roi, style

__all__ = ["boxes", "masks", "nms", "proposals", "roi", "style"]
