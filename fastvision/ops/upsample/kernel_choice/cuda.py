"""When a kernel of ours beats cuDNN's convolution on a GPU."""

from __future__ import annotations

from fastvision.ops.upsample.kernel_choice.layer import LARGE_STRIDE, Layer


def can(layer: Layer) -> bool:
    """Whether sizes stay within what csrc/upsample/gather.cuh counts in 32 bits."""
    sides, outputs = layer.sides, layer.outputs
    padded = max(side + 2 * padding for side, padding in zip(sides, layer.padding, strict=True))
    row = max(layer.channels * layer.input[3], outputs * sides[1]) if layer.channels_last else padded
    return max(padded, row) < 1 << 26 and outputs * sides[0] * sides[1] < 1 << 29 and outputs < 1 << 16


def pays(layer: Layer) -> bool:
    """Whether gathering what each output reads (csrc/upsample/gather.cuh) beats cuDNN.

    Measured with 600 layers in float32 on an H100, on which cuDNN multiplies in TF32: nothing that is a matrix product
    of some size is worth gathering. Of the rest, our call takes 5 to 10 us longer to launch than torch's, so cuDNN must
    have been busy for 25 us before there is anything to gain. In half types it was depthwise layers and large strides
    that were measured, and are taken.
    """
    outputs, results = layer.outputs, layer.results
    reads = layer.channels // layer.groups * layer.taps  # that an output reads
    strided = min(layer.stride) > 1
    if layer.depthwise and outputs == layer.channels:
        # cuDNN visits every tap of the kernel for every output, and knows better only without strides and turned
        least = 45_000_000 if layer.channels_last else 30_000_000
        return (strided or not layer.channels_last) and results * layer.kernel[0] * layer.kernel[1] >= least
    half = layer.dtype.itemsize == 2
    if half and (layer.groups > 1 or not LARGE_STRIDE <= min(layer.stride) <= 2 * LARGE_STRIDE):
        return False
    if layer.groups > 1:
        # one product a group, each of them small
        each = outputs // layer.groups
        if not strided:
            return not layer.channels_last and each <= 4 and results >= 1_000_000
        return reads <= 64 and (results >= 1_000_000 or (not layer.apart and results * reads >= 1_000_000))
    if not strided or layer.channels * layer.positions + results < (4_000_000 if layer.channels_last else 2_000_000):
        return False
    if layer.apart and outputs <= 4:
        return layer.channels <= (256 if max(layer.stride) == 2 else 64)
    return reads <= (100 if min(layer.stride) >= LARGE_STRIDE else 36)
