"""Upsampling by whole factors, each pixel among zeros."""

from __future__ import annotations

from torch import Tensor

from fastvision import reference
from fastvision._library import call, with_reference
from fastvision.ops._autocast import without_autocast
from fastvision.ops.upsample._whole_factor import in_format, register, serves
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
        Dumoulin & Visin 2016, section 4.5: the zeros that a transposed convolution inserts between its inputs. On CUDA
        it is one, whose kernel is a 1.
    """
    reference.upsample.check_factor("bed_of_nails_upsample", input, factor)
    if serves(input):
        return call("bed_of_nails_upsample", input, factor)
    if not input.is_cuda or input.numel() == 0:
        return _by_torch(input, factor)
    nail = input.new_ones(input.shape[1], 1, 1, 1)
    with without_autocast(input):  # numbers are moved, not computed with
        return conv_transpose2d(input, nail, None, factor, 0, factor - 1, input.shape[1])


def _backward_by_torch(grad: Tensor, factor: int) -> Tensor:
    return grad[:, :, ::factor, ::factor].clone()


_by_torch = in_format(reference.upsample.bed_of_nails_upsample)
register("bed_of_nails_upsample", _by_torch, _backward_by_torch)
