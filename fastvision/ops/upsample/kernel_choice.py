"""Who computes a transposed convolution."""

from __future__ import annotations

import contextlib
from typing import Literal, NamedTuple

import torch

from fastvision.ops._remembered import Remembered
from fastvision.reference.upsample.conv_transpose2d import Pair
from fastvision.reference.upsample.pair import to_pair

Kernel = Literal["product", "torch", "fastvision"]
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_LARGE_STRIDE = 8  # from it on, neighbouring outputs are a run of one row of the kernel
_LARGE_MAP = 1 << 22  # numbers
# bytes: what stays in the cache of a core, of the processor, and what torch's allocator puts on fresh pages each time
_TINY_RESULT, _SMALL_RESULT, _LARGE_RESULT = 1 << 20, 8 << 20, 32 << 20
_LANES = 16  # numbers of a vector
_LEAST_PIXELS = 48  # of a map; fewer leave tiles of pixels empty
_AVX2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
_FEW_PRODUCTS = 10_000_000  # that a GPU does in less time than three calls take to launch
_FEW_POSITIONS = 512  # input pixels of a batch; fewer do not pay for laying out the weights


def _multiplied_natively() -> set[torch.dtype]:
    """The half types oneDNN multiplies on this processor; of others torch's convolution rounds every partial sum."""
    found = set()
    for dtype, query in ((torch.float16, "_is_mkldnn_fp16_supported"), (torch.bfloat16, "_is_mkldnn_bf16_supported")):
        with contextlib.suppress(AttributeError, RuntimeError):  # neither is promised to stay
            if getattr(torch.ops.mkldnn, query)():
                found.add(dtype)
    return found


NATIVE_HALF = _multiplied_natively()


class Layer(NamedTuple):
    """What the choice of a kernel depends on. kernel, stride, padding and so on are (rows, columns)."""

    input: torch.Size
    weight: torch.Size
    stride: Pair
    padding: Pair
    output_padding: Pair
    groups: int
    dilation: Pair
    dtype: torch.dtype
    channels_last: bool
    cuda: bool

    @property
    def sides(self) -> list[int]:
        """Height and width of the output."""
        return [
            (self.input[2 + d] - 1) * self.stride[d]
            - 2 * self.padding[d]
            + self.dilation[d] * (self.weight[2 + d] - 1)
            + self.output_padding[d]
            + 1
            for d in range(2)
        ]

    @property
    def sound(self) -> bool:
        """Whether the arguments fit together; if not, our kernel is the one that says what was expected."""
        return (
            self.dtype in _DTYPES
            and len(self.input) == len(self.weight) == 4
            and self.groups > 0
            and self.input[1] == self.weight[0]
            and self.input[1] % self.groups == 0
            and min(self.input) > 0
            and min(self.weight) > 0
            and min(self.stride) > 0
            and min(self.dilation) > 0
            and all(
                p >= 0 and 0 <= e < max(s, d)
                for s, p, e, d in zip(self.stride, self.padding, self.output_padding, self.dilation, strict=True)
            )
            and min(self.sides) > 0
        )


def choose_kernel(layer: Layer) -> Kernel:
    """Who computes a transposed convolution fastest, by its shape: a matrix product, torch or a kernel of ours.

    ``python -m benchmarks.sweep`` shows what each choice costs; the reasons beside the lines are what it showed.
    """
    batch, channels, height, width = layer.input
    outputs, kernel = layer.weight[1] * layer.groups, (layer.weight[2], layer.weight[3])
    plain = (layer.padding, layer.output_padding, layer.dilation) == ((0, 0), (0, 0), (1, 1))
    weights = channels * outputs * kernel[0] * kernel[1]
    if (height, width, layer.groups) == (1, 1, 1) and plain and not (layer.cuda and batch * weights < _FEW_PRODUCTS):
        return "product"  # one tap an output: the weights are read once, which is all there is to do
    depthwise, dense = layer.groups == channels > 1, layer.groups == 1
    taps = kernel[0] * kernel[1] / (layer.stride[0] * layer.stride[1])  # that an output reads of a channel
    large_stride, positions = min(layer.stride) >= _LARGE_STRIDE, batch * height * width
    many = positions >= _FEW_POSITIONS
    if layer.cuda:
        return "fastvision" if _gather_can(layer) and _gather_pays(layer) else "torch"
    if layer.dtype not in (torch.float32, torch.float64):
        # oneDNN multiplies what we would widen to float32
        return "fastvision" if depthwise or layer.dtype not in NATIVE_HALF else "torch"
    result = batch * outputs * layer.sides[0] * layer.sides[1] * layer.dtype.itemsize
    if dense and _AVX2 and channels >= _LANES and _overlap_pays(layer, result):
        return "fastvision"
    # oneDNN works on 8 or 16 channels side by side, and slowly where they do not come out even
    odd = dense and channels > _LANES and channels % 8 != 0 and outputs <= 24 and min(layer.stride) > 1 and many
    # the weights of large strides are many, and worth laying out where their channels have pixels enough
    large = large_stride and (many or positions >= 2 * channels)
    # groups of few outputs leave most of a vector empty
    grouped = 1 < layer.groups < channels and outputs <= 4 * layer.groups and _AVX2
    if layer.channels_last and depthwise:
        # vectors along the channels, or along what neighbouring outputs of a large stride read
        vectors = outputs == channels >= _LANES and max(layer.stride) < _LARGE_STRIDE
        vectors = vectors and not _TINY_RESULT < result < _LARGE_RESULT
        return "fastvision" if vectors or (large and min(layer.stride) >= 2 * _LARGE_STRIDE) else "torch"
    if layer.channels_last:
        # few outputs leave oneDNN's vectors empty, but turning an input costs more than that unless much is made of it
        small = channels <= 128 and batch * channels * height * width < _LARGE_MAP
        few = outputs <= 4 and small and outputs * kernel[0] * kernel[1] >= 32
        # without overlap nothing is turned, and whole tiles of outputs are stored where they belong; in between the two
        # sizes both wait for memory, oneDNN a little less
        whole = channels >= _LANES and outputs % (2 * _LANES) == 0 and height * width >= _LEAST_PIXELS
        windows = kernel == layer.stride and plain and whole and not _SMALL_RESULT < result < _LARGE_RESULT
        return "fastvision" if (grouped and small) or (dense and (few or windows or odd or large)) else "torch"
    if (dense and large_stride) or grouped:
        return "fastvision"
    if depthwise:  # oneDNN works on 16 channels side by side, while turning the layout does not cost more than it saves
        small = channels % 16 == 0 and result < _LARGE_MAP * layer.dtype.itemsize
        return "torch" if small and not large_stride and min(kernel) > 1 else "fastvision"
    if not dense or not many:
        return "torch"
    # overlapping kernels with many outputs are what oneDNN is best at; it gains less without overlap or with few
    few = outputs <= 4 or (outputs <= 8 and channels <= 64 and taps <= 9)
    return "fastvision" if (kernel == layer.stride and positions >= channels) or few or odd else "torch"


def _gather_can(layer: Layer) -> bool:
    """Whether sizes stay within what csrc/upsample/gather.cuh counts in 32 bits."""
    sides, outputs = layer.sides, layer.weight[1] * layer.groups
    padded = max(side + 2 * padding for side, padding in zip(sides, layer.padding, strict=True))
    row = max(layer.input[1] * layer.input[3], outputs * sides[1]) if layer.channels_last else padded
    return max(padded, row) < 1 << 26 and outputs * sides[0] * sides[1] < 1 << 29 and outputs < 1 << 16


def _gather_pays(layer: Layer) -> bool:
    """Whether gathering what each output reads (csrc/upsample/gather.cuh) beats cuDNN, on CUDA.

    Measured with 600 layers in float32 on an H100, on which cuDNN multiplies in TF32: nothing that is a matrix product
    of some size is worth gathering. Of the rest, our call takes 5 to 10 us longer to launch than torch's, so cuDNN must
    have been busy for 25 us before there is anything to gain. In half types it was depthwise layers and large strides
    that were measured, and are taken.
    """
    batch, channels, height, width = layer.input
    outputs, (rows, columns) = layer.weight[1] * layer.groups, (layer.weight[2], layer.weight[3])
    results = batch * outputs * layer.sides[0] * layer.sides[1]
    # that an output reads
    reads = channels // layer.groups * rows * columns / (layer.stride[0] * layer.stride[1])
    strided, windows = min(layer.stride) > 1, (rows, columns) == layer.stride
    if layer.groups == channels > 1 and outputs == channels:
        # cuDNN visits every tap of the kernel for every output, and knows better only without strides and turned
        least = 45_000_000 if layer.channels_last else 30_000_000
        return (strided or not layer.channels_last) and results * rows * columns >= least
    half = layer.dtype.itemsize == 2
    if half and (layer.groups > 1 or not _LARGE_STRIDE <= min(layer.stride) <= 2 * _LARGE_STRIDE):
        return False
    if layer.groups > 1:
        # one product a group, each of them small
        each = outputs // layer.groups
        if not strided:
            return not layer.channels_last and each <= 4 and results >= 1_000_000
        return reads <= 64 and (results >= 1_000_000 or (not windows and results * reads >= 1_000_000))
    if not strided or batch * channels * height * width + results < (4_000_000 if layer.channels_last else 2_000_000):
        return False
    if windows and outputs <= 4:
        return channels <= (256 if max(layer.stride) == 2 else 64)
    return reads <= (100 if min(layer.stride) >= _LARGE_STRIDE else 36)


def _overlap_pays(layer: Layer, result: int) -> bool:
    """Whether a product of all pixels with all taps (csrc/upsample/overlap_products.h) beats oneDNN's convolution.

    result: bytes. Measured with 700 drawn layers in float32 on AVX2, and asked there only: where vectors are wider or
    narrower, nobody has looked yet.
    """
    batch, channels, height, width = layer.input
    _, outputs, *kernel = layer.weight
    positions, weights = batch * height * width, channels * outputs * kernel[0] * kernel[1]
    strided = min(layer.stride) > 1
    # maps of few pixels pay for laying out the weights, and for reading them again and again
    light = height * width >= 100 or weights < 1 << 20
    if max(layer.dilation) > 1 or max(kernel) == 1:
        return False
    if not layer.channels_last:
        # oneDNN turns an input and an output of planes: cheap beside a product whose outputs read every tap
        if not strided:
            return outputs <= 24 and channels >= 24
        return light and positions * weights >= 2_000_000 and positions >= 100
    if outputs <= 6:
        return True  # oneDNN's vectors are mostly empty
    if outputs <= 24 and (outputs % 8 != 0 or channels % 8 != 0):
        return True  # and here they do not come out even
    if light and width <= 10 and (positions >= 100 if strided else channels >= 24 and positions >= _FEW_POSITIONS):
        return True  # its tiles lie along a row
    # what it prepares weighs more than what it multiplies; its result is put on fresh pages
    return (positions * weights <= 8_000_000 and channels >= 32) or (result >= _LARGE_RESULT and strided)


class Plan(NamedTuple):
    """Who computes a layer, and how it is laid out, as our kernel is told.

    geometry: stride, padding, output_padding and dilation, each of rows and of columns, and the groups.
    """

    kernel: Kernel
    geometry: tuple[int, ...]


def plan(
    input: torch.Size,
    strides: tuple[int, ...],
    weight: torch.Size,
    stride: int | Pair,
    padding: int | Pair,
    output_padding: int | Pair,
    groups: int,
    dilation: int | Pair,
    dtype: torch.dtype,
    cuda: bool,
) -> Plan:
    """:func:`choose_kernel` of an input and a weight of these sizes, the former of these ``strides``."""
    pairs = to_pair(stride), to_pair(padding), to_pair(output_padding), to_pair(dilation)
    last = len(input) == 4 and _is_channels_last(input, strides)
    layer = Layer(input, weight, *pairs[:3], groups, pairs[3], dtype, last, cuda)
    geometry = (*(number for pair in pairs for number in pair), groups)
    return Plan(choose_kernel(layer) if layer.sound else "fastvision", geometry)


def _is_channels_last(size: torch.Size, strides: tuple[int, ...]) -> bool:
    """As torch's convolution reads it: one channel is dense both ways, and its stride decides."""
    dense = 1
    for d in (1, 3, 2, 0):
        if size[d] != 1 and strides[d] != dense:
            return False
        dense *= size[d]
    return strides[1] == 1


# a stride of 2.0 is an error, and not to be one for 2
plans = Remembered(plan, 1024, keep=lambda plan: all(type(number) is int for number in plan.geometry))
