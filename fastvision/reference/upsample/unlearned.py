"""Upsampling without weights in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def check_factor(op: str, input: Tensor, factor: int) -> None:
    if input.dim() != 4 or not input.is_floating_point():
        raise ValueError(
            f"{op}: expected a floating input of shape [N, C, H, W], got {input.dtype} {list(input.shape)}"
        )
    if factor < 1:
        raise ValueError(f"{op}: expected a factor of at least 1, got {factor}")


def nearest_upsample(input: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] -> [N, C, factor H, factor W]"""
    check_factor("nearest_upsample", input, factor)
    return input.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def bed_of_nails_upsample(input: Tensor, factor: int) -> Tensor:
    """[N, C, H, W] -> [N, C, factor H, factor W]"""
    check_factor("bed_of_nails_upsample", input, factor)
    batch, channels, height, width = input.shape
    output = input.new_zeros(batch, channels, height * factor, width * factor)
    output[:, :, ::factor, ::factor] = input
    return output
