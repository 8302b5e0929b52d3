"""When kernels of ours beat torch's in the gradients of a transposed convolution, on a CPU, and in which format torch's
are fastest.

Read from layers drawn at random, in float32. AVX-512: 1160 of planes and 820 in channels_last. AVX2: 820 and 660 on a
processor limited to it, and 610 in each format, few of them depthwise, on one that has no more. Half types that oneDNN
does not multiply follow float32.
``python -m benchmarks.sweep --gradients`` shows what the choices cost.
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
    SMALL_RESULT,
    Layer,
)

_LONG_ROW = 12  # taps of a row of the kernel; longer ones oneDNN adds up slowly
_FEW_POSITIONS = 1300  # for which it prepares more than it multiplies
_CACHED_PATCHES = 260_000  # numbers, 1 MB
_LARGE_INPUT = 6_500_000  # numbers
_FEW_IMAGES = 4  # more, and it gives each thread images of its own


class GradientPlan(NamedTuple):
    """Whether kernels of ours compute the gradient of the input, and that of the weight.

    turned: what torch computes of planes, it computes in channels_last.
    """

    input: bool
    weight: bool
    turned: bool = False


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
    wide = capability == "AVX512"
    if layer.depthwise:
        ours = _depthwise_pay(layer, wide)
    elif capability not in ("AVX512", "AVX2") and layer.kernel[1] <= _LONG_ROW:  # not timed
        ours = False, False
    elif not layer.dense:
        ours = _groups_pay(layer, wide)
    else:
        ours = (_last_pay if layer.channels_last else _planes_pay)(layer, wide)
    planes_by_torch = layer.dtype == torch.float32 and not layer.channels_last and not all(ours)
    return GradientPlan(*ours, turned=planes_by_torch and _turning_pays(layer, any(ours), wide))


def _turning_pays(layer: Layer, one: bool, wide: bool) -> bool:
    """Of planes: oneDNN turns them too, for blocks of 8 or 16 channels that it fills up, and large ones on fresh pages.

    one: of the gradients is ours, so that less is made of what is turned.
    """
    large = layer.result_bytes >= LARGE_RESULT
    if layer.depthwise:
        if _is_padded_widely(layer, wide):
            return True
        worthwhile = large or max(layer.kernel) > 3 or layer.channels % LANES != 0
        return large if one else layer.weights <= 7300 and worthwhile
    if not layer.dense:
        return _turned_groups_pay(layer, wide)
    if large or one:
        return large
    # blocks that are filled up; with vectors of 8 turning loses below 32 MB
    return wide and layer.outputs > LANES and layer.outputs % LANES > 4 and layer.result_bytes >= 700_000


def _turned_groups_pay(layer: Layer, wide: bool) -> bool:
    if layer.positions <= 34 * layer.channels or max(layer.kernel) <= 2:  # turning costs more than it gains
        return False
    inputs = layer.channels // layer.groups
    return wide or inputs <= 7 or (inputs <= 20 and layer.columns <= 228)


def _is_padded_widely(layer: Layer, wide: bool) -> bool:
    """Whether oneDNN has no kernel for planes of a depthwise layer.

    It holds so many outputs at once, and takes no wider padding (jit_uni_dw_conv_kernel_utils).
    """
    return max(layer.padding) > (6 if wide else 4)


def _depthwise_pay(layer: Layer, wide: bool) -> tuple[bool, bool]:
    """Input and weight."""
    width, taps, many = layer.input[3], layer.kernel[1], 3_300_000 * layer.input[0]
    if layer.channels_last:
        wide_map = width >= (40 if wide else 56) and taps >= 4 and layer.input[0] <= _FEW_IMAGES
        return False, taps > _LONG_ROW or wide_map
    # vectors along the rows, where oneDNN's are of channels
    small = layer.weights <= 4000 or layer.weight[2] * taps <= 49 or layer.channels % LANES != 0
    input = max(layer.stride) > LARGE_STRIDE or (width > (42 if wide else 50) and small)
    input = input or (layer.dtype != torch.float32 and _is_padded_widely(layer, wide))  # which is not turned
    if wide:
        rows = width > 14 and layer.sides[1] > (30 if taps >= 4 else 91)
        return input, taps > _LONG_ROW or rows or (width > 43 and layer.multiplications > many)
    rows = layer.sides[1] > 52 and (width > 82 or layer.multiplications > many or (taps >= 4 and width > 14))
    return input, taps > _LONG_ROW or rows


def _groups_pay(layer: Layer, wide: bool) -> tuple[bool, bool]:
    """Input and weight."""
    numbers = layer.input.numel()
    if layer.channels_last:
        if not wide:
            few = layer.positions <= 2 * layer.channels and numbers <= 28_000
            return few, few
        few = layer.positions <= 460 and layer.taps <= 3.5 and layer.weights <= 50_000
        return few and not layer.windows, layer.positions <= 300
    if layer.kernel[1] > _LONG_ROW:
        return wide, True
    if numbers >= _LARGE_INPUT and layer.outputs <= LANES:
        return True, True
    turned, inputs, columns = _turned_groups_pay(layer, wide), layer.channels // layer.groups, layer.columns
    if not wide:
        if inputs <= 7:
            few = layer.multiplications <= 3_200_000
        else:
            few_columns = columns <= 228 and min(layer.stride) > 1 and not turned
            few = few_columns or _patches(layer) <= 88_000
    elif turned:
        few = layer.multiplications <= 1_140_000 and columns <= 155
    else:
        full = layer.weight[1] % LANES == 0 and inputs % 8 == 0  # blocks of oneDNN's
        few = not full and layer.sides[1] > 13 and columns <= 700 and numbers <= 180_000
    return few, few


def _planes_pay(layer: Layer, wide: bool) -> tuple[bool, bool]:
    """Input and weight, of planes. Together torch turns the output's gradient once for both."""
    columns, few_images = layer.columns, layer.input[0] <= _FEW_IMAGES
    if layer.kernel[1] > _LONG_ROW:
        if min(layer.stride) >= LARGE_STRIDE and layer.channels > LANES and few_images:
            return True, True  # patches are runs of rows
        if wide:
            return layer.positions <= 550 and layer.sides[1] <= 150, True
        return columns <= 3600 and layer.positions <= 9 * layer.channels, True
    large = layer.result_bytes >= LARGE_RESULT  # on fresh pages, as is a large input that torch turns
    if layer.input.numel() >= _LARGE_INPUT or (large and layer.apart and layer.channels > 40):
        return True, True
    windows = layer.windows and few_images and layer.channels >= 96 and layer.outputs >= LANES
    if windows and layer.multiplications > 5_000_000:
        return True, True
    if not (wide or large):
        return _narrow_planes_pay(layer)
    if not large and _few_products_pay(layer):
        return True, True
    if layer.channels <= LANES:
        return False, False
    if large:
        return False, layer.channels * layer.taps >= 48  # products an output
    # of the weight's gradient alone: few positions, or vectors of outputs that are not full
    few = columns > LANES and layer.taps <= 6 and layer.positions <= 4 * layer.channels
    empty = LANES // 4 <= layer.outputs < LANES and min(layer.stride) > 1
    return False, few_images and (empty or (few and layer.multiplications <= 20_000_000))


def _narrow_planes_pay(layer: Layer) -> tuple[bool, bool]:
    """Of planes below 32 MB, with vectors of 8."""
    patches = _patches(layer)
    if layer.outputs <= 2:  # of the 8 that oneDNN fills up
        return layer.outputs == 1 or patches <= 90_000, True
    if layer.too_small_for_onednn:  # torch's own kernel is slow once there is much to multiply
        return patches > 28_000, patches > 28_000
    if layer.apart and max(layer.kernel) > 1 and layer.positions <= 35 * layer.channels:
        return True, True  # nothing is added up where patches overlap
    if patches <= _CACHED_PATCHES and (patches <= 49_000 or layer.sides[1] > 13):
        return True, True
    few_images = layer.input[0] <= _FEW_IMAGES and layer.channels > 56 and layer.columns <= 2800
    return False, layer.outputs > LANES and (layer.channels > 128 or few_images)


def _few_products_pay(layer: Layer) -> bool:
    """Of planes, with vectors of 16, for which oneDNN prepares more than it multiplies."""
    columns, width = layer.columns, layer.sides[1]
    few = layer.multiplications <= 3_500_000 and layer.positions <= 610 and (width > 25 or columns <= 136)
    return columns > LANES and not _is_thin(layer) and (few or (layer.multiplications <= 1_600_000 and width > 25))


def _last_pay(layer: Layer, wide: bool) -> tuple[bool, bool]:
    """Input and weight, in channels_last."""
    columns, large = layer.columns, layer.result_bytes >= LARGE_RESULT
    few = layer.multiplications <= (5_300_000 if wide else 2_400_000) and layer.positions <= _FEW_POSITIONS
    if layer.kernel[1] > _LONG_ROW:
        runs = large and min(layer.stride) >= LARGE_STRIDE and layer.input[0] <= _FEW_IMAGES
        return few or runs, True
    if not wide:
        return _narrow_last_pay(layer)
    if few and columns > LANES // 2 and not _is_thin(layer):
        return True, True
    if layer.windows and large:
        return False, True
    if layer.positions <= 540 and layer.channels > LANES and columns <= 2900 and layer.weights <= 250_000:
        return True, True
    many = layer.multiplications > 67_000_000 and layer.weights < 1 << 20
    return False, layer.positions <= 330 and not many and min(layer.stride) > 1


def _narrow_last_pay(layer: Layer) -> tuple[bool, bool]:
    """In channels_last, with vectors of 8, for which oneDNN's gradient of the weight is slow unless there are images
    enough to share among threads."""
    columns, few_images = layer.columns, layer.input[0] <= 2
    cached = _patches(layer) <= _CACHED_PATCHES
    if layer.positions <= 870:
        both = cached or columns <= 70 * layer.channels  # patches are not much more than the input
        return both, both
    small_kernel = 1 < max(layer.kernel) <= 3 and layer.outputs > 4
    if cached and small_kernel and layer.input.numel() <= 1 << 17:
        return True, True
    if layer.channels > 128 and layer.outputs >= 64 and not few_images and columns > LANES * LANES:
        return False, True
    spills = layer.result_bytes >= SMALL_RESULT  # over the cache of the processor
    if small_kernel and layer.channels > 40:
        return False, spills or (few_images and layer.multiplications >= 130_000_000)
    return False, spills and few_images and layer.channels >= 2 * LANES and layer.outputs >= 4 * LANES


def _is_thin(layer: Layer) -> bool:
    """Whether patches of large kernels are laid out for few channels."""
    return layer.channels <= LANES // 4 and max(layer.kernel) > 4


def _patches(layer: Layer) -> int:
    """Numbers that the columns hold for all positions, of a group."""
    return layer.positions * layer.columns
