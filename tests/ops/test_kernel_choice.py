"""Who computes a transposed convolution, by its shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastvision.ops._remembered import Remembered
from fastvision.ops.upsample import kernel_choice
from fastvision.ops.upsample.kernel_choice import NATIVE_HALF, Layer, _gather_pays, choose_kernel, plan


def chosen(channels: int, outputs: int, taps: int, stride: int, side: int, groups: int = 1, **kwargs: Any) -> str:
    sizes = torch.Size((1, channels, side, side)), torch.Size((channels, outputs // groups, taps, taps))
    layer = Layer(*sizes, (stride, stride), (0, 0), (0, 0), groups, (1, 1), torch.float32, False, False)
    return choose_kernel(layer._replace(**kwargs))


def test_the_choice() -> None:
    assert chosen(512, 512, 7, 1, 1) == "product"
    assert chosen(21, 21, 64, 32, 40, 21) == "fastvision"
    assert chosen(512, 256, 4, 2, 4) == "torch"
    assert chosen(64, 3, 4, 2, 64) == "fastvision"
    native = torch.bfloat16 in NATIVE_HALF
    assert chosen(256, 256, 4, 2, 64, dtype=torch.bfloat16) == ("torch" if native else "fastvision")
    assert chosen(256, 256, 2, 2, 64) == "fastvision" and chosen(256, 256, 2, 2, 64, channels_last=True) == "torch"
    assert chosen(256, 256, 2, 2, 128, channels_last=True) == "fastvision"  # 67 MB
    assert chosen(256, 256, 2, 2, 14, channels_last=True) == "fastvision"  # 0.8 MB
    assert chosen(64, 64, 4, 2, 24, 64, channels_last=True) == "fastvision" and chosen(64, 64, 4, 2, 24, 64) == "torch"
    assert chosen(21, 21, 4, 2, 32) == "fastvision"


@pytest.mark.parametrize(
    ("layer", "kernel"),
    [
        ((21, 21, 64, 32, 34, 21), "fastvision"),  # depthwise, large
        ((21, 21, 4, 2, 16, 21), "torch"),  # and small
        ((512, 512, 3, 1, 128, 512), "fastvision"),
        ((64, 64, 4, 2, 98, 8), "fastvision"),  # groups
        ((64, 64, 4, 2, 8, 32), "torch"),
        ((64, 64, 3, 1, 200, 16), "fastvision"),
        ((64, 256, 3, 1, 200, 16), "torch"),
        ((21, 21, 64, 32, 34), "fastvision"),  # dense: large strides, few channels, few outputs of windows
        ((32, 64, 2, 2, 128), "fastvision"),
        ((128, 3, 2, 2, 128), "fastvision"),
        ((512, 512, 4, 2, 64), "torch"),
        ((8, 8, 3, 1, 512), "torch"),
    ],
)
def test_on_cuda(layer: tuple[int, ...], kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_choice, "_gather_pays", _gather_pays)
    assert chosen(*layer, cuda=True) == kernel


def test_on_cuda_in_half() -> None:
    """cuDNN multiplies twice as fast, where it has a kernel for it."""
    half: dict[str, Any] = {"dtype": torch.float16, "cuda": True}
    assert chosen(21, 21, 64, 32, 34, 21, **half) == "fastvision" and chosen(21, 21, 16, 8, 70, **half) == "fastvision"
    assert chosen(21, 21, 64, 32, 34, **half) == chosen(32, 64, 2, 2, 128, **half) == "torch"


def test_products_on_cuda() -> None:
    assert chosen(4096, 512, 7, 1, 1, cuda=True) == "product" and chosen(100, 1024, 4, 1, 1, cuda=True) == "torch"


_LAST = {"channels_last": True}
_TALL = {"channels_last": True, "input": torch.Size((1, 64, 80, 9))}


@pytest.mark.parametrize("layer", [(64, 32, 3, 2, 128), (24, 24, 4, 2, 32), (16, 8, 4, 2, 10, 2)])
@pytest.mark.parametrize("narrow", [False, True])
def test_planes(layer: tuple[int, ...], narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_choice, "_AVX2", narrow)
    assert chosen(*layer) == ("fastvision" if narrow else "torch")


@pytest.mark.parametrize(
    ("layer", "rest"),
    [
        ((256, 6, 5, 2, 64), _LAST),
        ((256, 21, 5, 2, 64), _LAST),
        ((64, 64, 3, 2, 16), _TALL),
        ((64, 32, 3, 2, 300), _LAST),
        ((64, 8, 3, 1, 20), _LAST),
    ],
)
@pytest.mark.parametrize("narrow", [False, True])
def test_channels_last(
    layer: tuple[int, ...], rest: dict[str, Any], narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_choice, "_AVX2", narrow)
    assert chosen(*layer, **rest) == ("fastvision" if narrow else "torch")


@pytest.mark.parametrize(
    ("layer", "rest"),
    [
        ((64, 64, 3, 1, 128), {}),
        ((1024, 512, 4, 2, 4), {}),
        ((64, 32, 3, 2, 128), _LAST),
        ((1024, 512, 4, 2, 4), {"channels_last": True, "input": torch.Size((64, 1024, 4, 4))}),
    ],
)
def test_torchs(layer: tuple[int, ...], rest: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for narrow in (False, True):
        monkeypatch.setattr(kernel_choice, "_AVX2", narrow)
        assert chosen(*layer, **rest) == "torch"


def test_plans_are_remembered_and_bounded() -> None:
    plans = Remembered(plan, 2)
    for side in (3, 4, 5, 4):
        x, weight = torch.empty(1, 8, side, side), torch.empty(8, 8, 2, 2)
        layer = (x.shape, x.stride(), weight.shape, 2, 0, 0, 1, 1, x.dtype, False)
        assert plans[layer] == plan(*layer) and layer in plans and len(plans) <= 2


def test_what_must_not_be_kept_is_not() -> None:
    doubled = Remembered(lambda x: 2 * x, 2, keep=lambda answer: isinstance(answer, int))
    assert type(doubled.of(2.0)) is float and type(doubled.of(2)) is int and list(doubled) == [(2,)]
    assert doubled.of([1]) == [1, 1]
