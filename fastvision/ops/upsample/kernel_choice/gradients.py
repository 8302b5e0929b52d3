"""When kernels of ours beat torch's in the gradients of a transposed convolution, on a CPU.

Read from layers drawn at random, each in both memory formats, in float32: 820 on AVX-512 and 660 on AVX2. ``python -m
benchmarks.sweep --gradients`` shows what the choices cost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from fastvision.ops.upsample.kernel_choice.layer import (
    CAPABILITY,
    LANES,
    LARGE_RESULT,
    LARGE_STRIDE,
    NATIVE_HALF,
    Layer,
)

_LONG_ROW = 12  # taps of a row of the kernel; longer ones oneDNN adds up slowly
_FEW_POSITIONS = 1300  # for which it prepares more than it multiplies
_FEW_IMAGES = 4  # more, and it gives each thread images of its own
# its kernel for planes holds so many outputs at once, and takes no wider padding (jit_uni_dw_conv_kernel_utils)
_MOST_PADDING = {"AVX512": 6}
_MOST_PADDING_ELSEWHERE = 4


class GradientPlan(NamedTuple):
    """Whether kernels of ours compute the gradient of the input, and that of the weight."""

    input: bool
    weight: bool


def choose_gradients(layer: Layer, capability: str | None = None) -> GradientPlan:
    """Who computes the gradients fastest, by the shape of the layer.

    capability: of the processor, as :func:`torch.backends.cpu.get_cpu_capability` says it.
    """
    if layer.cuda:
        return GradientPlan(False, False)
    if layer.dtype == torch.float64:  # for which oneDNN has nothing
        return GradientPlan(True, True)
    if layer.dtype in NATIVE_HALF and not layer.depthwise:  # oneDNN multiplies what we would widen to float32
        return GradientPlan(False, False)
    capability = capability or CAPABILITY
    if layer.depthwise:
        return GradientPlan(_input_of_planes_pays(layer, capability), _weight_of_planes_pays(layer, capability))
    if capability == "AVX512":
        return GradientPlan(_input_pays_with_avx512(layer), _weight_pays_with_avx512(layer))
    return GradientPlan(_input_pays_with_avx2(layer), _weight_pays_with_avx2(layer))


def _input_of_planes_pays(layer: Layer, capability: str) -> bool:
    """Of a depthwise layer."""
    if layer.channels_last:
        return False
    most = _MOST_PADDING.get(capability, _MOST_PADDING_ELSEWHERE)
    if max(layer.padding) > most or max(layer.stride) > LARGE_STRIDE:
        return True
    large, even = layer.result_bytes >= LARGE_RESULT, layer.channels % LANES == 0
    width = layer.input[3]
    if capability == "AVX512":
        return large or (not even and (width >= 30 or min(layer.stride) >= LARGE_STRIDE))
    return (large and width >= 8) or (not even and width >= 50 and layer.kernel[1] <= 8)


def _weight_of_planes_pays(layer: Layer, capability: str) -> bool:
    width, taps = layer.input[3], layer.kernel[1]
    if layer.channels_last:
        wide = width >= (40 if capability == "AVX512" else 56)
        return taps > _LONG_ROW or (wide and taps >= 4 and layer.input[0] <= _FEW_IMAGES)
    if width > 8 and (taps >= 4 or layer.result_bytes >= LARGE_RESULT):
        return True
    return taps > _LONG_ROW or (width >= 40 and layer.channels % LANES != 0)


def _input_pays_with_avx512(layer: Layer) -> bool:
    """An ordinary convolution, which oneDNN is good at where it need not turn planes."""
    large, few_images = layer.result_bytes >= LARGE_RESULT, layer.input[0] <= _FEW_IMAGES
    width = layer.input[3]
    if not layer.dense:
        return False
    if layer.channels <= LANES:  # patches are laid out for few products
        return False
    if min(layer.stride) >= LARGE_STRIDE:
        return few_images and (large or not layer.channels_last)
    if layer.multiplications <= (4_000_000 if layer.channels_last else 1_800_000):
        return layer.positions <= 2 * _FEW_POSITIONS and _taps(layer) >= 2 * LANES
    return not layer.channels_last and layer.windows and (large or (width >= 25 and few_images))


def _weight_pays_with_avx512(layer: Layer) -> bool:
    """Sums over all positions."""
    large, few_images = layer.result_bytes >= LARGE_RESULT, layer.input[0] <= _FEW_IMAGES
    width, taps = layer.input[3], layer.kernel[1]
    if not layer.dense:
        return not layer.channels_last and width >= 5 and layer.multiplications <= 10_000_000
    if taps > _LONG_ROW:
        return True
    if _taps(layer) < 2 * LANES:
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


def _input_pays_with_avx2(layer: Layer) -> bool:
    few_images, few = layer.input[0] <= _FEW_IMAGES, layer.multiplications <= 2_000_000
    if not layer.dense:
        return not layer.channels_last and few
    if layer.result_bytes >= LARGE_RESULT and min(layer.stride) >= (LARGE_STRIDE if layer.channels_last else 2):
        return few_images  # on fresh pages
    if layer.channels_last:
        # of the two gradients, which torch computes together, the input's alone gains nothing
        light = layer.multiplications <= 10_000_000 and layer.channels > LANES
        return (few or light) and _weight_pays_with_avx2(layer)
    if layer.kernel[1] > _LONG_ROW:
        return layer.multiplications <= 300_000_000 and min(layer.stride) < LARGE_STRIDE
    if layer.apart and layer.channels > LANES // 2:
        return layer.multiplications <= 15_000_000
    return few and LANES <= _taps(layer) <= 16 * LANES and layer.input[3] > 3


def _weight_pays_with_avx2(layer: Layer) -> bool:
    large, few = layer.result_bytes >= LARGE_RESULT, layer.multiplications <= 2_500_000
    width, filled = layer.input[3], _taps(layer) >= LANES
    if not layer.dense:
        strided = min(layer.stride) > 1 and width >= 5 and layer.multiplications <= 10_000_000
        return layer.positions <= 200 if layer.channels_last else strided
    if layer.kernel[1] > _LONG_ROW:
        return True
    if layer.channels_last:
        # what oneDNN prepares weighs more than what it multiplies
        return filled and layer.positions <= (_FEW_POSITIONS if _taps(layer) >= 1 << 13 else 240)
    if large and min(layer.stride) > 1:
        return True  # on fresh pages
    light = layer.channels > 3 * LANES and layer.multiplications <= 15_000_000
    alone = layer.outputs == 1 and filled  # its vectors are of outputs
    return width > 3 and (light or alone or (few and filled and layer.channels > LANES // 4))


def _taps(layer: Layer) -> int:
    """Of all outputs of a group: columns of the matrix that is multiplied."""
    return layer.weight[1] * layer.kernel[0] * layer.kernel[1]
