"""Max pooling that remembers where the largest values were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference


@with_reference(reference.upsample.max_pool2d_with_indices)
def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """The largest value in each window, and its place: the switches that :func:`max_unpool2d` takes.

    torch's own op under the name of its pair, ``return_indices`` left out because they are always returned.

    Args:
        input: ``[N, C, H, W]`` or ``[C, H, W]``; channels_last in gives channels_last out.
        kernel_size: ``(height, width)`` of a window, or one number for both; so are the arguments below.
        stride: from one window to the next; ``kernel_size`` if None.
        padding: minus infinity on either side, at most half of ``kernel_size``.
        dilation: from one element of a window to the next.
        ceil_mode: a last window may reach over the edge.

    Shapes:
        ``[N, C, H, W] -> [N, C, P, Q], [N, C, P, Q]``: values, and int64 indices into the flat input plane. NaN is
        larger than any number, and of equal values the first counts. Differentiable in ``input``.

    Raises:
        RuntimeError: torch's own, for sizes that do not fit.

    Complexity:
        ``O(N C P Q k^2)`` for windows of ``k x k``.

    Reference:
        ``torch.nn.functional.max_pool2d_with_indices``; the switches of Zeiler and Fergus 2014, "Visualizing and
        Understanding Convolutional Networks", section 2.1.
    """
    pool: Any = F.max_pool2d_with_indices  # whose stubs know fewer kinds of sizes than it does
    return pool(input, kernel_size, stride, padding, dilation, ceil_mode)
