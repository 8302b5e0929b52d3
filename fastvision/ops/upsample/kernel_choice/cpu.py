"""When a kernel of ours beats torch's convolution on a CPU.

``python -m benchmarks.sweep`` shows what each choice costs; the reasons beside the lines are what it showed, and layers
drawn at random, each in both memory formats: in float32 2500 on AVX-512 and 1400 on AVX2, in float64 340 and 170. What
is said of AVX2 alone in depthwise layers, in those without strides, of groups, of few outputs and of what is too small
for oneDNN was read from 1600 more, on a processor without AVX-512.
"""

from __future__ import annotations

import torch

from fastvision.ops.upsample.kernel_choice.layer import (
    CAPABILITY,
    LANES,
    LARGE_RESULT,
    LARGE_STRIDE,
    TINY_RESULT,
    Layer,
)

_LARGE_MAP = 1 << 22  # numbers
_FEW_POSITIONS = 512  # fewer do not pay for laying out the weights


def pays(layer: Layer, capability: str | None = None) -> bool:
    """Of a layer in float32 or float64 that is no product.

    capability: of the processor, as :func:`torch.backends.cpu.get_cpu_capability` says it.
    """
    capability = capability or CAPABILITY
    if layer.dtype == torch.float64:
        return _pays_in_double(layer, capability)
    if layer.depthwise and layer.outputs == layer.channels:
        if capability == "AVX2" and layer.channels >= LANES // 2:
            return _narrow_vectors_of_channels_pay(layer)
        return _channels_pay(layer) if layer.channels_last else _planes_pay(layer)
    if capability not in ("AVX512", "AVX2"):
        return layer.dense and _pays_with_any(layer)
    lanes = LANES if capability == "AVX512" else LANES // 2
    if not layer.dense:
        return _groups_pay(layer, lanes)
    if lanes < LANES and _overlap_most(layer):
        return False
    if max(layer.kernel) == 1 or max(layer.dilation) > 1:
        return _large_kernels(layer)
    if layer.result_bytes >= LARGE_RESULT or _large_kernels(layer):
        return True  # on fresh pages; or sums along rows of the kernel
    if layer.channels < LANES and layer.taps > 2 * LANES:  # products of few channels, added up at many places
        return not layer.channels_last and layer.weights <= 12_000
    if lanes < LANES:
        if layer.channels_last and layer.too_small_for_onednn:
            return True  # torch's own kernel writes patches, and adds them up afterwards
        if not _pays_with_narrow_vectors(layer):
            return False
    if layer.outputs < lanes - 2:  # oneDNN's vectors have empty lanes; but of few channels it gives a thread an image
        images = layer.channels_last and layer.channels < LANES < layer.input[3] and layer.input[0] > 1
        return lanes < LANES or not images  # which on AVX2 is not enough
    return _last_pay(layer, lanes) if layer.channels_last else _turned_pay(layer, lanes)


def _pays_in_double(layer: Layer, capability: str) -> bool:
    """oneDNN has no float64, and torch adds up one product a tap, image by image."""
    if layer.depthwise:
        return True
    # few outputs of few taps are soon added; the largest products are what its library for matrices is made for
    work = layer.outputs > 3 * layer.groups or layer.taps > 4
    return max(layer.kernel) > 1 and work and (capability == "AVX512" or layer.weights < 1 << 20)


def _pays_with_any(layer: Layer) -> bool:
    """Of a dense layer, with what every processor can do."""
    outputs, many = layer.outputs, layer.positions >= _FEW_POSITIONS
    # oneDNN works on 8 or 16 channels side by side, and slowly where they do not come out even
    odd = layer.channels > LANES and layer.channels % 8 != 0 and outputs <= 24 and min(layer.stride) > 1 and many
    if layer.channels_last:
        # few outputs leave oneDNN's vectors empty, but turning an input costs more than that unless much is made of it
        small = layer.channels <= 128 and layer.channels * layer.positions < _LARGE_MAP
        few = outputs <= 4 and small and outputs * layer.kernel[0] * layer.kernel[1] >= 32
        return few or odd or _large_kernels(layer)
    # overlapping kernels with many outputs are what oneDNN is best at; it gains less without overlap or with few
    few = outputs <= 4 or (outputs <= 8 and layer.channels <= 64 and layer.taps <= 9)
    apart = layer.apart and layer.positions >= layer.channels
    return min(layer.stride) >= LARGE_STRIDE or (many and (apart or few or odd))


def _pays_with_narrow_vectors(layer: Layer) -> bool:
    """A dense layer on AVX2, of what pays on AVX-512."""
    if not layer.channels_last:
        few_channels = layer.channels < LANES and layer.taps > 10 and layer.outputs > 5
        few_positions = 5 * layer.positions < 3 * layer.channels and (layer.outputs > 6 or max(layer.kernel) <= 3)
        return not (few_channels or few_positions)
    light = layer.multiplications <= 2_000_000 and layer.weights <= 4000
    return layer.channels >= LANES or layer.outputs <= 6 or light


def _overlap_most(layer: Layer) -> bool:
    """Whether all taps of many kernels add up at each place, of planes on AVX2: oneDNN turns them, and faster."""
    overlap = min(layer.stride) == 1 < max(layer.kernel) and not layer.channels_last
    heavy = layer.multiplications > 11_000_000 and layer.result_bytes < LARGE_RESULT
    return overlap and heavy and layer.channels <= 3 * LANES


def _turned_pay(layer: Layer, lanes: int) -> bool:
    """Of a dense layer of planes, which oneDNN has to turn. lanes: numbers of a vector of outputs."""
    if layer.windows or layer.outputs % lanes != 0:
        return True
    if layer.positions <= 2 * LANES:
        return False  # for which it prepares little
    # many products of many weights are what it is best at
    if min(layer.stride) == 1:
        few = layer.multiplications <= 30_000_000 and layer.weights <= 100_000
        return few or layer.channels % LANES != 0
    if layer.weights > 1 << 18:  # but for narrow maps, and what padding cuts off is computed all the same
        return 5 * max(layer.padding) <= max(layer.kernel) and layer.input[3] <= 12
    heavy = layer.multiplications > 20_000_000 and layer.input[3] > 3
    return not (heavy and layer.taps > 14 and layer.weights > 1 << 16)


def _last_pay(layer: Layer, lanes: int) -> bool:
    """Of a dense layer in channels_last, which oneDNN takes as it is. lanes: numbers of a vector of outputs."""
    width, even = layer.input[3], layer.outputs % lanes == 0
    if width < 10:  # its tiles lie along a row
        return layer.channels > LANES // 2 and (layer.weights <= 1 << 22 or layer.positions <= 512)
    if layer.result_bytes < TINY_RESULT // 2:  # what it prepares weighs more than what it multiplies
        return layer.multiplications <= 11_000_000 or not even
    if layer.channels > LANES and layer.channels % 8 != 0 and layer.outputs <= 24 and min(layer.stride) > 1:
        return layer.positions <= 1 << 13  # neither come its vectors of channels out even
    if layer.positions > 128 * layer.channels:
        return False
    if not even:
        return not layer.windows
    if layer.windows:  # nothing is added up, so that whole tiles of outputs are stored where they belong
        light = lanes == LANES or layer.multiplications <= 150_000_000
        small = layer.sides[1] <= 72 and layer.positions <= 10_000 and light
        return layer.multiplications <= 14_000_000 or small
    return width < 20 and (layer.weights <= 80_000 or (lanes == LANES and layer.positions <= 10 * layer.channels))


def _groups_pay(layer: Layer, lanes: int) -> bool:
    """lanes: numbers of a vector of outputs."""
    if max(layer.kernel) == 1 or _turns_large_images(layer):
        return False
    if lanes < LANES and not layer.channels_last and _small_groups_pay(layer):
        return True
    many_taps = layer.taps > 2 * LANES and layer.channels > 2 * layer.groups
    if many_taps and (layer.channels_last or layer.positions < 2000):
        return False
    if layer.result_bytes >= LARGE_RESULT:  # on fresh pages
        return layer.weights <= (30_000 if layer.channels_last else 100_000)
    if not layer.channels_last:
        full = layer.outputs % (LANES * layer.groups) == 0 and layer.positions > _FEW_POSITIONS
        small = min(layer.stride) > 1 or (layer.input[2] >= LANES and layer.channels <= 8 * layer.groups)
        return layer.weights <= 100_000 and small and not full
    if lanes < LANES:  # the lanes of oneDNN's vectors are the outputs of one group
        if layer.apart and max(layer.kernel) <= 3 and layer.channels <= 8 * layer.groups:
            return False  # little is added up
        worthwhile = min(layer.stride) > 2 or layer.columns > 43 or layer.result_bytes < TINY_RESULT
        return layer.outputs <= 6 * layer.groups and worthwhile
    if layer.outputs <= 9 * layer.groups:  # many lanes of oneDNN's vectors are empty
        many = layer.channels > 6 * LANES and layer.weights >= 1000
        return many or layer.channels > 24 * layer.groups
    few = layer.result_bytes < 2 * TINY_RESULT and layer.positions > 64 * layer.channels
    return few and max(layer.kernel) > 2


def _small_groups_pay(layer: Layer) -> bool:
    """Of planes on AVX2: oneDNN turns them into blocks of a group's channels, which are not full, or adds up little."""
    inputs, outputs = layer.channels // layer.groups, layer.weight[1]
    small, products = inputs <= 7 or outputs <= 6 or layer.taps < 1.7, inputs * layer.taps  # an output
    return small and products <= 100 and layer.result_bytes < LARGE_RESULT


def _planes_pay(layer: Layer) -> bool:
    """Of a depthwise layer: vectors along a row of the output, where oneDNN's are of channels, and turned."""
    if layer.taps > LANES or layer.sides[1] < 2 * LANES:
        return False
    if layer.result_bytes >= LARGE_RESULT:
        return True
    if layer.channels % LANES == 0:
        return layer.input[3] > 50 and layer.result_bytes <= TINY_RESULT
    wide = min(layer.stride) >= LARGE_STRIDE and layer.sides[1] >= LANES * LANES
    return wide or (layer.sides[1] > 40 and layer.weights <= 6000)


def _narrow_vectors_of_channels_pay(layer: Layer) -> bool:
    """Of a depthwise layer on AVX2, in either format: our kernel turns planes where that pays."""
    # oneDNN computes every tap of the kernel for every output, which costs it nothing extra without strides
    return layer.taps <= LANES // 2 or layer.multiplications <= 15_000_000 or layer.result_bytes >= LARGE_RESULT


def _channels_pay(layer: Layer) -> bool:
    """Of a depthwise layer in channels_last, for which oneDNN holds more vectors of channels at a time than we do."""
    if layer.taps > 2 * LANES or LANES // 2 <= layer.channels < LANES or _turns_large_images(layer):
        return False
    if layer.result_bytes >= LARGE_RESULT or layer.result_bytes < TINY_RESULT or min(layer.stride) >= LANES:
        return True
    even = layer.channels >= LANES and layer.channels % LANES <= 6  # more are one by one, when vectors are used up
    return even and layer.taps <= 8 and layer.weights <= 1 << 14


def _turns_large_images(layer: Layer) -> bool:
    """Of one channel a group: whether our kernel works on planes that each thread turns for itself, image by image."""
    if not (layer.channels_last and layer.depthwise) or layer.channels * layer.pixels <= 1 << 18:
        return False
    return not LANES <= layer.channels == layer.outputs


def _large_kernels(layer: Layer) -> bool:
    """Whether strides are so large that neighbouring outputs are a run of the kernel, and the input is no small map.

    Such kernels have many weights, worth laying out for pixels enough.
    """
    many = layer.positions >= _FEW_POSITIONS or layer.positions >= 2 * layer.channels
    return min(layer.stride) >= LARGE_STRIDE and many
