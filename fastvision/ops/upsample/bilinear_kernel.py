"""The weight with which a transposed convolution interpolates."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvision import reference
from fastvision._library import with_reference


@with_reference(reference.upsample.bilinear_kernel)
def bilinear_kernel(
    channels: int,
    factor: int,
    *,
    groups: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """A weight for ``conv_transpose2d`` that enlarges a map ``factor`` times by bilinear interpolation.

    The kernel is ``2 factor - factor % 2`` on a side. With ``stride=factor`` and ``padding=factor // 2`` the output
    is ``factor`` times the input. Beyond the border a transposed convolution sees
    zeros, so that a constant map fades out over the last ``factor`` pixels; ``torch.nn.functional.interpolate`` repeats
    the border instead.

    Args:
        channels: of the map.
        factor: at least 1.
        groups: of the convolution: ``channels``, the default, is one kernel a channel; 1 the dense layer of fully
            convolutional networks, zero between different channels; or any divisor of ``channels``.
        dtype: floating point; torch's default if None.
        device: torch's default if None.

    Shapes:
        ``-> [channels, channels / groups, k, k]``.

    Raises:
        ValueError: a negative number of channels, a factor below 1, groups that do not divide the channels, a dtype
            that is not floating point.

    Complexity:
        ``O(channels^2 k^2 / groups)`` bytes written.

    Reference:
        Long, Shelhamer and Darrell 2015, "Fully Convolutional Networks for Semantic Segmentation", section 3.3, and the
        initialisation of its published code.
    """
    groups = max(channels, 1) if groups is None else groups
    if channels < 0 or factor < 1:
        raise ValueError(f"bilinear_kernel: expected channels >= 0 and a factor >= 1, got {channels} and {factor}")
    if groups < 1 or channels % groups:
        raise ValueError(f"bilinear_kernel: expected groups that divide {channels} channels, got {groups}")
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise ValueError(f"bilinear_kernel: expected a floating-point dtype, got {dtype}")
    size = 2 * factor - factor % 2
    place = torch.arange(size, dtype=torch.float64, device=device)
    line = 1 - (place - (size - 1) / 2).abs() / factor  # centre: factor - 1 for odd factors, factor - 1/2 for even ones
    weight = torch.zeros(channels, channels // groups, size, size, dtype=dtype, device=device)
    channel = torch.arange(channels, device=device)
    weight[channel, channel % max(channels // groups, 1)] = torch.outer(line, line).to(dtype)
    return weight
