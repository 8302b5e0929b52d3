"""Content loss of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference


@with_reference(reference.style.content_loss)
def content_loss(
    features: Tensor | Sequence[Tensor],
    targets: Tensor | Sequence[Tensor],
    weights: Sequence[float] | None = None,
) -> Tensor:
    """How far the features of an image are from those of the image whose content it should have.

    The sum over layers of ``weight * mean((feature - target)^2)``, the mean over all values of the layer: torch's own
    ``mse_loss``, of each layer. Gatys et al. 2016, equation 1, take half the sum instead of the mean: for one image
    that is this loss times ``C H W / 2``, a constant for the weights.

    Args:
        features: a tensor of any shape, or one for each layer.
        targets: of the same shapes, number and devices.
        weights: one number a layer; None: 1 each.

    Shapes:
        ``L x [N, C_l, H_l, W_l] -> []``; float32, float64 if any layer is. Differentiable in ``features`` and
        ``targets``, any number of times.

    Raises:
        ValueError: another number of targets or weights than of features, no features, unequal shapes or devices.

    Complexity:
        ``O(values)``.

    Reference:
        Johnson et al. 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", equation 2.
    """
    return reference.style.content_loss(features, targets, weights)
