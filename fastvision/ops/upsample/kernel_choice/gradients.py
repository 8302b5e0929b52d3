"""When kernels of ours beat torch's in the gradients of a transposed convolution, on a CPU.

Read from 820 layers drawn at random, each in both memory formats, in float32 on AVX-512; ``python -m benchmarks.sweep
--gradients`` shows what the choices cost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastvision.ops.upsample.kernel_choice.layer import (
    LANES,
    LARGE_RESULT,
    LARGE_STRIDE,
    NATIVE_HALF,
    Layer,
)

_LONG_ROW = 12  # taps of a row of the kernel; longer ones oneDNN adds up slowly
_FEW_POSITIONS = 1300  # for which it prepares more than it multiplies
_FEW_IMAGES = 4  # more, and it gives each thread images of its own


class GradientPlan(NamedTuple):
    """Whether kernels of ours compute the gradient of the input, and that of the weight."""

    input: bool
    weight: bool


def choose_gradients(layer: Layer) -> GradientPlan:
    """Who computes the gradients fastest, by the shape of the layer."""
    if layer.cuda:
        return GradientPlan(False, False)
    if layer.dtype == torch.float64:  # for which oneDNN has nothing
        return GradientPlan(True, True)
    if layer.dtype in NATIVE_HALF and not layer.depthwise:  # oneDNN multiplies what we would widen to float32
        return GradientPlan(False, False)
    return GradientPlan(_input_pays(layer), _weight_pays(layer))


def _input_pays(layer: Layer) -> bool:
    """An ordinary convolution, which oneDNN is good at where it need not turn planes."""
    large, few_images = layer.result_bytes >= LARGE_RESULT, layer.input[0] <= _FEW_IMAGES
    width, even = layer.input[3], layer.channels % LANES == 0
    if layer.depthwise:
        if layer.channels_last:
            return False
        return large or (not even and (width >= 30 or min(layer.stride) >= LARGE_STRIDE))
    if not layer.dense:
        return False
    if layer.channels <= LANES:  # patches are laid out for few products
        return False
    if min(layer.stride) >= LARGE_STRIDE:
        return few_images and (large or not layer.channels_last)
    if layer.multiplications <= (4_000_000 if layer.channels_last else 1_800_000):
        return layer.positions <= 2 * _FEW_POSITIONS and not _leaves_vectors_empty(layer)
    return not layer.channels_last and layer.windows and (large or (width >= 25 and few_images))


def _weight_pays(layer: Layer) -> bool:
    """Sums over all positions."""
    large, few_images = layer.result_bytes >= LARGE_RESULT, layer.input[0] <= _FEW_IMAGES
    width, taps = layer.input[3], layer.kernel[1]
    if layer.depthwise:
        if layer.channels_last:
            return taps > _LONG_ROW or (width >= 40 and taps >= 4 and few_images)
        return taps > _LONG_ROW or (taps >= 4 and width > 8) or (width >= 40 and layer.channels % LANES != 0)
    if not layer.dense:
        return not layer.channels_last and width >= 5 and layer.multiplications <= 10_000_000
    if taps > _LONG_ROW:
        return True
    if _leaves_vectors_empty(layer):
        return False
    if layer.windows and large:
        return True
    strided, few = min(layer.stride) > 1, layer.multiplications <= 2_000_000
    if layer.channels_last:
        light = layer.multiplications <= 50_000_000
        if layer.positions <= _FEW_POSITIONS // 4:
            return light or layer.weights >= 1 << 20
        return light and strided and layer.positions <= _FEW_POSITIONS and layer.channels > LANES
    if layer.channels <= LANES:  # patches are laid out for few products
        return few and few_images and layer.outputs <= 2 * LANES
    narrow = layer.outputs <= 50 and width >= 25 and strided and layer.multiplications <= 200_000_000
    return few_images and (few or narrow or (layer.windows and width >= 8))


def _leaves_vectors_empty(layer: Layer) -> bool:
    """Of taps."""
    return layer.outputs * layer.kernel[0] * layer.kernel[1] < 2 * LANES
