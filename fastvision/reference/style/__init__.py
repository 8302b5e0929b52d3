"""Style transfer in plain PyTorch, one file per op."""

from fastvision.reference.style.gram_matrix import gram_matrix, style_loss

__all__ = ["gram_matrix", "style_loss"]
