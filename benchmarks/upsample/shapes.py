"""Transposed convolutions of published networks, and random ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.cases.upsample.conv_transpose2d import layer


@dataclass(frozen=True)
class Shape:
    """One layer on one input; ``weights``: dense, or "bilinear" (zero off the diagonal unless depthwise)."""

    network: str
    batch: int
    channels: int
    outputs: int
    kernel: int
    stride: int
    height: int
    width: int
    padding: int = 0
    output_padding: int = 0
    groups: int = 1
    weights: str = "dense"

    @property
    def name(self) -> str:
        grouped = "" if self.groups == 1 else f" in {self.groups} groups"
        kind = "" if self.weights == "dense" else f" {self.weights}"
        size = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        return f"{self.network} {size}->{self.outputs} {self.kernel}^2 s{self.stride}{grouped}{kind}"

    def tensors(self, device: str = "cpu") -> tuple[Tensor, Tensor]:
        features = data.feature_map(self.batch, self.channels, self.height, self.width).to(device)
        if self.weights == "bilinear":
            return features, ops.bilinear_kernel(self.channels, self.stride, groups=self.groups, device=device)
        return features, layer(self.channels, self.outputs, (self.kernel, self.kernel), self.groups)[0].to(device)

    @property
    def arguments(self) -> tuple[int, int, int, int]:
        """stride, padding, output_padding, groups"""
        return self.stride, self.padding, self.output_padding, self.groups


def published() -> Iterator[Shape]:
    # Long, Shelhamer & Darrell 2015: 21 classes of a 500 x 375 image padded by 100, and of VOC's mean size
    for height, width in ((12, 16), (34, 45)):
        for groups, weights in ((1, "dense"), (1, "bilinear"), (21, "bilinear")):
            yield Shape("FCN-32s", 1, 21, 21, 64, 32, height, width, groups=groups, weights=weights)
    for groups in (1, 21):
        yield Shape("FCN-16s", 1, 21, 21, 4, 2, 22, 26, groups=groups, weights="bilinear")
        yield Shape("FCN-16s", 1, 21, 21, 32, 16, 46, 54, groups=groups, weights="bilinear")
        yield Shape("FCN-8s", 1, 21, 21, 16, 8, 70, 86, groups=groups, weights="bilinear")
    # Noh, Hong & Han 2015, table 2
    for channels, outputs, side in ((512, 512, 14), (512, 512, 28), (512, 256, 28), (256, 256, 56), (256, 128, 56),
                                    (128, 128, 112), (128, 64, 112), (64, 64, 224)):  # fmt: skip
        yield Shape("DeconvNet", 1, channels, outputs, 3, 1, side, side, 1)
    yield Shape("DeconvNet", 1, 4096, 512, 7, 1, 1, 1)
    # Ronneberger, Fischer & Brox 2015, figure 1
    for channels, side in ((1024, 28), (512, 52), (256, 100), (128, 196)):
        yield Shape("U-Net", 1, channels, channels // 2, 2, 2, side, side)
    # Radford, Metz & Chintala 2016, figure 1
    for batch in (1, 64):
        yield Shape("DCGAN", batch, 100, 1024, 4, 1, 1, 1)
        for channels, outputs, side in ((1024, 512, 4), (512, 256, 8), (256, 128, 16), (128, 3, 32)):
            yield Shape("DCGAN", batch, channels, outputs, 4, 2, side, side, 1)
    # He et al. 2017: of 8 and of 100 regions; and the keypoint head
    for rois in (8, 100):
        yield Shape("Mask R-CNN", rois, 256, 256, 2, 2, 14, 14)
    yield Shape("Keypoint R-CNN", 20, 512, 17, 4, 2, 14, 14, 1)
    # Johnson, Alahi & Fei-Fei 2016, at 256 and 512 pixels
    for side in (64, 128):
        yield Shape("Johnson", 1, 128, 64, 3, 2, side, side, 1, 1)
        yield Shape("Johnson", 1, 64, 32, 3, 2, 2 * side, 2 * side, 1, 1)


def drawn(count: int = 26, seed: int = 0) -> Iterator[Shape]:
    """Random sizes, kernels and groups, each below a billion multiplications."""
    draw = random.Random(seed)
    while count:
        groups = draw.choice((1, 1, 1, 2, 8, 0))
        channels = draw.choice((1, 3, 8, 16, 21, 32, 48, 64, 100, 128, 256))
        outputs = channels if groups == 0 else draw.choice((1, 2, 3, 8, 16, 32, 64, 128))
        groups = groups or channels
        stride = draw.choice((1, 2, 2, 2, 3, 4))
        kernel = draw.choice((stride, stride + 1, 2 * stride, 3, 5, 7))
        height, width, batch = draw.randint(1, 96), draw.randint(1, 96), draw.choice((1, 1, 2, 8))
        if channels % groups or outputs % groups or kernel < stride:
            continue
        if not 1e6 < batch * channels * height * width * outputs // groups * kernel**2 < 1e9:
            continue
        yield Shape(
            "random", batch, channels, outputs, kernel, stride, height, width, (kernel - stride) // 2, 0, groups
        )
        count -= 1


def shapes() -> list[Shape]:
    return [*published(), *drawn()]


LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
