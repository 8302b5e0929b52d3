"""When a kernel of ours beats torch's convolution on a CPU.

``python -m benchmarks.sweep`` shows what each choice costs; the reasons beside the lines are what it showed, and layers
drawn at random: in float32 700 on AVX2 and 2000 on AVX-512, in float64 170 and 340.
"""

from __future__ import annotations

import torch

from fastvision.ops.upsample.kernel_choice.layer import (
    CAPABILITY,
    LANES,
    LARGE_RESULT,
    LARGE_STRIDE,
    SMALL_RESULT,
    TINY_RESULT,
    Layer,
)

_LARGE_MAP = 1 << 22  # numbers
_LEAST_PIXELS = 48  # of a map; fewer leave tiles of pixels empty
_FEW_POSITIONS = 512  # fewer do not pay for laying out the weights


def pays(layer: Layer, capability: str | None = None) -> bool:
    """Of a layer in float32 or float64 that is no product.

    capability: of the processor, as :func:`torch.backends.cpu.get_cpu_capability` says it.
    """
    capability = capability or CAPABILITY
    if layer.dtype == torch.float64:
        return _pays_in_double(layer, capability)
    if capability == "AVX512":
        return _pays_with_avx512(layer)
    return (capability == "AVX2" and _pays_with_avx2(layer)) or _pays_with_any(layer)


def _pays_in_double(layer: Layer, capability: str) -> bool:
    """oneDNN has no float64, and torch adds up one product a tap, image by image."""
    if layer.depthwise:
        return True
    # few outputs of few taps are soon added; the largest products are what its library for matrices is made for
    work = layer.outputs > 3 * layer.groups or layer.taps > 4
    return max(layer.kernel) > 1 and work and (capability == "AVX512" or layer.weights < 1 << 20)


def _pays_with_any(layer: Layer) -> bool:
    outputs, many = layer.outputs, layer.positions >= _FEW_POSITIONS
    # oneDNN works on 8 or 16 channels side by side, and slowly where they do not come out even
    odd = layer.channels > LANES and layer.channels % 8 != 0 and outputs <= 24 and min(layer.stride) > 1 and many
    if layer.channels_last:
        if layer.depthwise:
            return _in_vectors_of_channels(layer) or _large_kernels(layer, 2 * LARGE_STRIDE)
        # few outputs leave oneDNN's vectors empty, but turning an input costs more than that unless much is made of it
        few = outputs <= 4 and _is_small_map(layer) and outputs * layer.kernel[0] * layer.kernel[1] >= 32
        # without overlap nothing is turned, and whole tiles of outputs are stored where they belong; in between the two
        # sizes both wait for memory, oneDNN a little less
        whole = layer.channels >= LANES and outputs % (2 * LANES) == 0 and layer.pixels >= _LEAST_PIXELS
        whole = whole and layer.windows and not SMALL_RESULT < layer.result_bytes < LARGE_RESULT
        return layer.dense and (few or whole or odd or _large_kernels(layer, LARGE_STRIDE))
    if layer.depthwise:
        return _planes_pay(layer, _LARGE_MAP * layer.dtype.itemsize)
    if not layer.dense:
        return False
    # overlapping kernels with many outputs are what oneDNN is best at; it gains less without overlap or with few
    few = outputs <= 4 or (outputs <= 8 and layer.channels <= 64 and layer.taps <= 9)
    apart = layer.apart and layer.positions >= layer.channels
    return min(layer.stride) >= LARGE_STRIDE or (many and (apart or few or odd))


def _pays_with_avx2(layer: Layer) -> bool:
    """What :func:`_pays_with_any` leaves to torch."""
    if layer.dense and layer.channels >= LANES and _overlap_pays(layer):
        return True
    # groups of few outputs leave most of a vector empty
    grouped = 1 < layer.groups < layer.channels and layer.outputs <= 4 * layer.groups
    return grouped and (not layer.channels_last or _is_small_map(layer))


def _overlap_pays(layer: Layer) -> bool:
    """Whether a product of all pixels with all taps (csrc/upsample/overlap_products.h) does, on AVX2."""
    width, strided = layer.input[3], min(layer.stride) > 1
    # maps of few pixels pay for laying out the weights, and for reading them again and again
    light = layer.pixels >= 100 or layer.weights < 1 << 20
    if max(layer.dilation) > 1 or max(layer.kernel) == 1:
        return False
    if not layer.channels_last:
        # oneDNN turns an input and an output of planes: cheap beside a product whose outputs read every tap
        if not strided:
            return layer.outputs <= 24 and layer.channels >= 24
        return light and layer.multiplications >= 2_000_000 and layer.positions >= 100
    if layer.outputs <= 6:
        return True  # oneDNN's vectors are mostly empty
    if layer.outputs <= 24 and (layer.outputs % 8 != 0 or layer.channels % 8 != 0):
        return True  # and here they do not come out even
    many = layer.positions >= 100 if strided else layer.channels >= 24 and layer.positions >= _FEW_POSITIONS
    if light and width <= 10 and many:
        return True  # its tiles lie along a row
    # what it prepares weighs more than what it multiplies; its result is put on fresh pages
    few = layer.multiplications <= 8_000_000 and layer.channels >= 32
    return few or (layer.result_bytes >= LARGE_RESULT and strided)


def _pays_with_avx512(layer: Layer) -> bool:
    if layer.depthwise and layer.outputs == layer.channels:
        return (_channels_pay_with_avx512 if layer.channels_last else _planes_pay_with_avx512)(layer)
    if not layer.dense:
        return _groups_pay_with_avx512(layer)
    if max(layer.kernel) == 1 or max(layer.dilation) > 1:
        return _large_kernels(layer, LARGE_STRIDE)
    if layer.result_bytes >= LARGE_RESULT or _large_kernels(layer, LARGE_STRIDE):
        return True  # on fresh pages; or sums along rows of the kernel
    if layer.channels < LANES and layer.taps > 2 * LANES:  # products of few channels, added up at many places
        return not layer.channels_last and layer.weights <= 12_000
    if layer.outputs < LANES - 2:  # oneDNN's vectors are mostly empty; but of few channels it gives each thread an image
        return not (layer.channels_last and layer.channels < LANES < layer.input[3] and layer.input[0] > 1)
    even = layer.outputs % LANES == 0
    return (_last_pay_with_avx512 if layer.channels_last else _turned_pay_with_avx512)(layer, even)


def _turned_pay_with_avx512(layer: Layer, even: bool) -> bool:
    """Of a dense layer of planes, which oneDNN has to turn. even: its vectors of outputs come out so."""
    if layer.windows or not even:
        return True
    if layer.positions <= 2 * LANES:
        return False  # for which it prepares little
    # many products of many weights are what it is best at
    if min(layer.stride) == 1:
        few = layer.multiplications <= 30_000_000 and layer.weights <= 100_000
        return few or layer.channels % LANES != 0
    if layer.weights > 1 << 18:
        return 5 * max(layer.padding) <= max(layer.kernel) and layer.input[3] <= 12
    heavy = layer.multiplications > 20_000_000 and layer.input[3] > 3
    return not (heavy and layer.taps > 14 and layer.weights > 1 << 16)


def _last_pay_with_avx512(layer: Layer, even: bool) -> bool:
    """Of a dense layer in channels_last, which oneDNN takes as it is."""
    width, few = layer.input[3], layer.multiplications <= 11_000_000
    if width < 10:  # its tiles lie along a row
        return layer.channels > LANES // 2 and (layer.weights <= 1 << 22 or layer.positions <= 512)
    if layer.result_bytes < TINY_RESULT // 2:
        return few or not even  # what it prepares weighs more than what it multiplies
    if layer.channels > LANES and layer.channels % 8 != 0 and layer.outputs <= 24 and min(layer.stride) > 1:
        return layer.positions <= 1 << 13  # neither come its vectors of channels out even
    if layer.positions > 128 * layer.channels:
        return False
    if not even:
        return not layer.windows
    return width < 20 and (layer.positions <= 10 * layer.channels or layer.weights <= 80_000)


def _groups_pay_with_avx512(layer: Layer) -> bool:
    if layer.taps > 2 * LANES and layer.channels > 2 * layer.groups:
        if layer.channels_last or layer.positions < 2000:
            return False
    if layer.result_bytes >= LARGE_RESULT:
        return layer.weights <= (30_000 if layer.channels_last else 100_000)
    if not layer.channels_last:
        full = layer.outputs % (LANES * layer.groups) == 0 and layer.positions > 500
        small = min(layer.stride) > 1 or (layer.input[2] >= LANES and layer.channels <= 8 * layer.groups)
        return layer.weights <= 100_000 and small and not full
    if layer.outputs <= 9 * layer.groups:  # most of oneDNN's vectors is empty
        return layer.weights >= 1000 and (layer.channels > 24 * layer.groups or layer.channels > 6 * LANES)
    few = layer.result_bytes < 2 * TINY_RESULT and layer.positions > 64 * layer.channels
    return few and max(layer.kernel) > 2


def _planes_pay_with_avx512(layer: Layer) -> bool:
    """Of a depthwise layer: vectors along a row of the output, where oneDNN's are of channels, and turned."""
    if layer.taps > LANES or layer.sides[1] < 2 * LANES:
        return False
    if layer.result_bytes >= LARGE_RESULT:
        return True
    if layer.channels % LANES == 0:
        return layer.input[3] > 50 and layer.result_bytes <= TINY_RESULT
    wide = min(layer.stride) >= LARGE_STRIDE and layer.sides[1] >= LANES * LANES
    return wide or (layer.sides[1] > 40 and layer.weights <= 6000)


def _channels_pay_with_avx512(layer: Layer) -> bool:
    """Of a depthwise layer: vectors of channels on both sides, of which oneDNN holds more at a time."""
    if layer.taps > 2 * LANES or LANES // 2 <= layer.channels < LANES:
        return False
    if layer.result_bytes >= LARGE_RESULT or layer.result_bytes < TINY_RESULT or min(layer.stride) >= LANES:
        return True
    even = layer.channels >= LANES and layer.channels % LANES <= 6  # vectors that are nearly all full
    return even and layer.taps <= 8 and layer.weights <= 1 << 14


def _is_small_map(layer: Layer) -> bool:
    return layer.channels <= 128 and layer.channels * layer.positions < _LARGE_MAP


def _large_kernels(layer: Layer, stride: int) -> bool:
    """Whether strides are so large that neighbouring outputs are a run of the kernel, and the input is no small map.

    Such kernels have many weights, worth laying out for pixels enough.
    """
    many = layer.positions >= _FEW_POSITIONS or layer.positions >= 2 * layer.channels
    return min(layer.stride) >= stride and many


def _in_vectors_of_channels(layer: Layer) -> bool:
    """Of a depthwise layer in channels_last: whether vectors of channels pay."""
    vectors = layer.outputs == layer.channels >= LANES and max(layer.stride) < LARGE_STRIDE
    return vectors and not TINY_RESULT < layer.result_bytes < LARGE_RESULT


def _planes_pay(layer: Layer, least: int) -> bool:
    """Of a depthwise layer of planes. least: bytes of a result that oneDNN pays too much for turning.

    It works on 16 channels side by side, while turning the layout does not cost more than it saves.
    """
    turned = layer.channels % 16 == 0 and layer.result_bytes < least and min(layer.kernel) > 1
    return not turned or min(layer.stride) >= LARGE_STRIDE
