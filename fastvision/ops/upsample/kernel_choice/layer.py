"""What the choice of a kernel depends on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch

from fastvision.reference.upsample.conv_transpose2d import Pair

# bytes of a result: what stays in the cache of a core, of the processor, and what torch's allocator puts on fresh pages
# each time
TINY_RESULT, SMALL_RESULT, LARGE_RESULT = 1 << 20, 8 << 20, 32 << 20
LARGE_STRIDE = 8  # from it on, neighbouring outputs are a run of one row of the kernel
LANES = 16  # numbers of a vector
CAPABILITY = torch.backends.cpu.get_cpu_capability()  # the widest instructions of this processor: AVX512, AVX2, ...
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _multiplied_natively() -> set[torch.dtype]:
    """The half types oneDNN multiplies on this processor; of others torch's convolution rounds every partial sum."""
    found = set()
    for dtype, query in ((torch.float16, "_is_mkldnn_fp16_supported"), (torch.bfloat16, "_is_mkldnn_bf16_supported")):
        with contextlib.suppress(AttributeError, RuntimeError):  # neither is promised to stay
            if getattr(torch.ops.mkldnn, query)():
                found.add(dtype)
    return found


NATIVE_HALF = _multiplied_natively()


def parts(geometry: Sequence[int]) -> tuple[Pair, Pair, Pair, Pair, int]:
    """stride, padding, output_padding, dilation, groups"""
    if len(geometry) != 9:
        raise ValueError(f"conv_transpose2d: expected a geometry of 9 numbers, got {len(geometry)}")
    a, b, c, d, e, f, g, h, groups = geometry
    return (a, b), (c, d), (e, f), (g, h), groups


class Layer(NamedTuple):
    """kernel, stride, padding and so on are (rows, columns)."""

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
    def kernel(self) -> Pair:
        return self.weight[2], self.weight[3]

    @property
    def channels(self) -> int:
        return self.input[1]

    @property
    def outputs(self) -> int:
        return self.weight[1] * self.groups

    @property
    def dense(self) -> bool:
        return self.groups == 1

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels > 1

    @property
    def apart(self) -> bool:
        """Whether kernels do not overlap, and leave no gaps but for dilation."""
        return self.kernel == self.stride

    @property
    def windows(self) -> bool:
        """Whether kernels cover the whole output side by side."""
        return self.apart and self.plain

    @property
    def plain(self) -> bool:
        return (self.padding, self.output_padding, self.dilation) == ((0, 0), (0, 0), (1, 1))

    @property
    def too_small_for_onednn(self) -> bool:
        """Whether torch keeps a layer in float32 from oneDNN for its size (ConvParams::use_mkldnn in Convolution.cpp).

        Left out: output_padding not below the stride, and kernels of 1x1 in one thread.
        """
        return self.dense and self.input[0] == 1 and min(self.kernel) <= 3 and self.input.numel() <= 20480

    @property
    def pixels(self) -> int:
        """Of an input map."""
        return self.input[2] * self.input[3]

    @property
    def positions(self) -> int:
        """Input pixels of the batch."""
        return self.input[0] * self.pixels

    @property
    def weights(self) -> int:
        return self.weight.numel()

    @property
    def columns(self) -> int:
        """Taps of all outputs of a group: of the matrix that the positions' channels are multiplied by."""
        return self.weight[1] * self.kernel[0] * self.kernel[1]

    @property
    def multiplications(self) -> int:
        return self.positions * self.weights

    @property
    def taps(self) -> float:
        """That an output reads of a channel."""
        return self.kernel[0] * self.kernel[1] / (self.stride[0] * self.stride[1])

    @property
    def sides(self) -> Pair:
        """Height and width of the output."""
        height, width = (
            (self.input[2 + d] - 1) * self.stride[d]
            - 2 * self.padding[d]
            + self.dilation[d] * (self.weight[2 + d] - 1)
            + self.output_padding[d]
            + 1
            for d in range(2)
        )
        return height, width

    @property
    def results(self) -> int:
        """Numbers of the output."""
        return self.input[0] * self.outputs * self.sides[0] * self.sides[1]

    @property
    def result_bytes(self) -> int:
        return self.results * self.dtype.itemsize

    @property
    def sound(self) -> bool:
        """Whether the arguments fit together; if not, our kernel is the one that says what was expected."""
        return (
            self.dtype in DTYPES
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
