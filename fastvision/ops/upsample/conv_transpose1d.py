"""Transposed convolution of signals."""

from __future__ import annotations

from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference
from fastvision.ops.upsample.conv_transpose2d import conv_transpose2d
from fastvision.reference.upsample.conv_transpose1d import of_a_column
from fastvision.reference.upsample.conv_transpose2d import Activation


@with_reference(reference.upsample.conv_transpose1d)
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] = 0,
    output_padding: int | tuple[int] = 0,
    groups: int = 1,
    dilation: int | tuple[int] = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.01,
) -> Tensor:
    """:func:`conv_transpose2d` of one row: copies of the filter, weighted by the input, overlap and add up.

    Args:
        input: ``[N, C, L]``, or ``[C, L]`` without a batch.
        weight: ``[C, O / groups, k]``.
        bias: ``[O]`` or None.
        stride, padding, output_padding, dilation: in samples.
        groups, activation, negative_slope: as in :func:`conv_transpose2d`.

    Shapes:
        ``[N, C, L] -> [N, O, (L - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1]``. Differentiable as
        :func:`conv_transpose2d` is.

    Raises:
        ValueError: as :func:`conv_transpose2d`.

    Complexity:
        ``O(N C O / groups L k)``.

    Reference:
        Dumoulin & Visin 2016, chapter 4; signature of ``torch.nn.functional.conv_transpose1d``.
    """
    return conv_transpose2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        of_a_column(stride, 1),
        of_a_column(padding, 0),
        of_a_column(output_padding, 0),
        groups,
        of_a_column(dilation, 1),
        activation=activation,
        negative_slope=negative_slope,
    ).squeeze(-2)
