"""Upsampling by whole factors, each pixel among zeros."""

from __future__ import annotations

from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference
from fastvision.ops._autocast import without_autocast
from fastvision.ops.upsample.conv_transpose2d import conv_transpose2d


@with_reference(reference.upsample.bed_of_nails_upsample)
def bed_of_nails_upsample(input: Tensor, factor: int) -> Tensor:
    """Every pixel becomes the top left one of ``factor x factor``, the others zero.

    Args:
        input: ``[N, C, H, W]``, floating; channels_last in gives channels_last out.
        factor: at least 1.

    Shapes:
        ``[N, C, H, W] -> [N, C, factor H, factor W]``. Differentiable, any number of times.

    Raises:
        ValueError: a factor below 1, an input that is not ``[N, C, H, W]`` and floating.

    Complexity:
        ``O(N C H W factor^2)``.

    Reference:
        Dumoulin & Visin 2016, section 4.5: the zeros that a transposed convolution inserts between its inputs, which is
        how it is computed.
    """
    reference.upsample.check_factor("bed_of_nails_upsample", input, factor)
    if input.numel() == 0:
        return reference.upsample.bed_of_nails_upsample(input, factor)
    nail = input.new_ones(input.shape[1], 1, 1, 1)
    with without_autocast(input):  # numbers are moved, not computed with
        return conv_transpose2d(input, nail, None, factor, 0, factor - 1, input.shape[1])
