"""Style transfer, one file per op."""

from fastvision.ops.style.gram_matrix import gram_matrix, style_loss

__all__ = ["gram_matrix", "style_loss"]
