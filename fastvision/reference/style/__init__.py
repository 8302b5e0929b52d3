"""Style transfer in plain PyTorch, one file per op."""

from fastvision.reference.style.content_loss import content_loss
from fastvision.reference.style.gram_matrix import gram_matrix, style_loss
from fastvision.reference.style.instance_norm import instance_norm
from fastvision.reference.style.total_variation_loss import total_variation_loss

__all__ = [
    "content_loss",
    "gram_matrix",
    "instance_norm",
    "style_loss",
    "total_variation_loss",
]
