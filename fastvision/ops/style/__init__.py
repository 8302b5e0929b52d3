"""Style transfer, one file per op."""

from fastvision.ops.style.content_loss import content_loss
from fastvision.ops.style.gram_matrix import gram_matrix
from fastvision.ops.style.instance_norm import ConditionalInstanceNorm2d, InstanceNorm2d, instance_norm
from fastvision.ops.style.style_loss import style_loss
from fastvision.ops.style.total_variation_loss import total_variation_loss

__all__ = [
    "ConditionalInstanceNorm2d",
    "InstanceNorm2d",
    "content_loss",
    "gram_matrix",
    "instance_norm",
    "style_loss",
    "total_variation_loss",
]
