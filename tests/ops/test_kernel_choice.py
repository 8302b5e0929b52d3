"""Who computes a transposed convolution, by its shape."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transposed_layers import a_layer

from fastvision import ops
from fastvision.ops.upsample.kernel_choice import (
    NATIVE_HALF,
    choose_kernel,
    cpu,
    cuda,
    plan,
)

_cuda_pays = cuda.pays
_module = sys.modules["fastvision.ops.upsample.conv_transpose2d"]
_FLOATS = (torch.float32, torch.bfloat16, torch.float64)


@pytest.fixture(autouse=True)
def true_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA the other tests ask for our kernel whatever the size."""
    monkeypatch.setattr(cuda, "pays", _cuda_pays)
    monkeypatch.setattr(_module, "remembered_plan", plan)


def chosen(*sizes: int, **kwargs: Any) -> str:
    return choose_kernel(a_layer(*sizes, **kwargs))


def with_processor(capability: str, *sizes: int, **kwargs: Any) -> str:
    return "fastvision" if cpu.pays(a_layer(*sizes, **kwargs), capability) else "torch"


def test_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CAPABILITY", "AVX2")
    assert chosen(512, 512, 7, 1, 1) == "product"
    assert chosen(21, 21, 64, 32, 40, 21) == "fastvision"
    assert chosen(512, 256, 4, 2, 4) == "torch"
    assert chosen(64, 3, 4, 2, 64) == "fastvision"
    native = torch.bfloat16 in NATIVE_HALF
    assert chosen(256, 256, 4, 2, 64, dtype=torch.bfloat16) == ("torch" if native else "fastvision")
    assert chosen(256, 256, 2, 2, 64) == "fastvision" and chosen(256, 256, 2, 2, 64, channels_last=True) == "torch"
    assert chosen(256, 256, 2, 2, 128, channels_last=True) == "fastvision"  # 67 MB
    assert chosen(256, 256, 2, 2, 14, channels_last=True) == "fastvision"  # 0.8 MB
    assert chosen(64, 64, 4, 2, 24, 64, channels_last=True) == chosen(64, 64, 4, 2, 24, 64) == "fastvision"
    assert chosen(256, 256, 7, 1, 40, 256, channels_last=True) == chosen(256, 256, 7, 1, 40, 256) == "torch"
    assert chosen(16, 32, 5, 1, 16) == "fastvision" and chosen(16, 32, 5, 1, 64) == "torch"
    assert chosen(1024, 512, 2, 2, 28, channels_last=True) == "torch"
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
def test_on_cuda(layer: tuple[int, ...], kernel: str) -> None:
    assert chosen(*layer, cuda=True) == kernel


def test_on_cuda_in_half() -> None:
    """cuDNN multiplies twice as fast, where it has a kernel for it."""
    half: dict[str, Any] = {"dtype": torch.float16, "cuda": True}
    assert chosen(21, 21, 64, 32, 34, 21, **half) == "fastvision" and chosen(21, 21, 16, 8, 70, **half) == "fastvision"
    assert chosen(21, 21, 64, 32, 34, **half) == chosen(32, 64, 2, 2, 128, **half) == "torch"


@pytest.mark.parametrize("last", [False, True])
def test_sizes_that_need_more_than_32_bits_on_cuda(last: bool) -> None:
    gpu: dict[str, Any] = {"cuda": True, "channels_last": last}
    assert chosen(2, 2, 1, 2, 1, 2, input=torch.Size((1, 2, 64, 1 << 18)), **gpu) == "fastvision"
    for size in ((1, 2, 1, 1 << 26), (1, 2, 1 << 14, 1 << 15)):
        assert chosen(2, 2, 1, 2, 1, 2, input=torch.Size(size), **gpu) == "torch"
    wide = torch.Size((1, 1024, 1, 1 << 16))
    assert chosen(1024, 1024, 2, 2, 1, 1024, input=wide, **gpu) == ("torch" if last else "fastvision")


def test_small_layers(device: torch.device) -> None:
    """By default, cuDNN's on CUDA."""
    x, weight, bias = (torch.randn(size, device=device) for size in ((2, 6, 5, 7), (6, 2, 4, 4), (4,)))
    for activation in (None, "relu", "leaky_relu"):
        for groups in (1, 2):
            w, b = (weight, bias[:2]) if groups == 1 else (weight, bias)
            expected = F.conv_transpose2d(x, w, b, 2, 1, 0, groups)
            expected = {None: expected, "relu": expected.relu(), "leaky_relu": F.leaky_relu(expected)}[activation]
            actual = ops.conv_transpose2d(x, w, b, 2, 1, 0, groups, activation=activation)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_products_on_cuda() -> None:
    assert chosen(4096, 512, 7, 1, 1, cuda=True) == "product" and chosen(100, 1024, 4, 1, 1, cuda=True) == "torch"


_LAST = {"channels_last": True}
_TALL = {"channels_last": True, "input": torch.Size((1, 64, 80, 9))}
_BATCH = {"channels_last": True, "input": torch.Size((8, 8, 64, 64))}
_DOUBLE: dict[str, Any] = {"dtype": torch.float64}


@pytest.mark.parametrize(
    ("layer", "rest", "kernel"),
    [
        ((64, 16, 4, 2, 32, 4), _LAST, "fastvision"),  # 4 outputs a group
        ((64, 64, 4, 2, 32, 4), _LAST, "torch"),  # 16, which fill oneDNN's vectors
        ((64, 8, 3, 2, 128, 4), _LAST, "torch"),  # 18 taps of all outputs of a group
        ((64, 8, 3, 2, 24, 4), _LAST, "fastvision"),  # the same of a small map
        ((64, 8, 3, 3, 128, 4), _LAST, "fastvision"),  # and of a larger stride
        ((64, 64, 4, 2, 32, 16), _LAST, "fastvision"),
        ((32, 8, 3, 3, 24, 4), _LAST, "torch"),  # little to add up
        ((128, 128, 3, 1, 24, 4), {}, "torch"),  # groups of planes: full blocks of channels
        ((128, 16, 3, 1, 8, 4), {}, "torch"),  # 4 outputs each, for too many products
        ((32, 16, 3, 1, 8, 4), {}, "fastvision"),
        ((24, 192, 3, 1, 40, 4), {}, "fastvision"),  # 6 channels each
        ((256, 128, 2, 2, 40, 4), {}, "fastvision"),  # kernels that do not overlap
        ((8, 5, 3, 2, 64), _BATCH, "fastvision"),  # few outputs
        ((8, 21, 5, 2, 64), _BATCH, "torch"),
        ((8, 2, 7, 2, 60), {}, "fastvision"),
        ((8, 12, 7, 2, 60), {}, "torch"),
        ((3, 64, 3, 2, 40), _LAST, "fastvision"),  # too small for oneDNN
        ((3, 64, 3, 2, 90), _LAST, "torch"),
    ],
)
def test_with_narrow_vectors(layer: tuple[int, ...], rest: dict[str, Any], kernel: str) -> None:
    assert with_processor("AVX2", *layer, **rest) == kernel


@pytest.mark.parametrize("layer", [(64, 32, 3, 2, 128), (24, 24, 4, 2, 32), (16, 8, 4, 2, 10, 2)])
@pytest.mark.parametrize("processor", ["DEFAULT", "AVX2"])
def test_planes(layer: tuple[int, ...], processor: str) -> None:
    assert with_processor(processor, *layer) == ("torch" if processor == "DEFAULT" else "fastvision")


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
@pytest.mark.parametrize("processor", ["DEFAULT", "AVX2"])
def test_channels_last(layer: tuple[int, ...], rest: dict[str, Any], processor: str) -> None:
    assert with_processor(processor, *layer, **rest) == ("torch" if processor == "DEFAULT" else "fastvision")


@pytest.mark.parametrize(
    ("layer", "rest"),
    [
        ((64, 64, 3, 1, 128), {}),
        ((1024, 512, 4, 2, 4), {}),
        ((64, 32, 3, 2, 128), _LAST),
        ((1024, 512, 4, 2, 4), {"channels_last": True, "input": torch.Size((64, 1024, 4, 4))}),
    ],
)
@pytest.mark.parametrize("processor", ["DEFAULT", "AVX2"])
def test_torchs(layer: tuple[int, ...], rest: dict[str, Any], processor: str) -> None:
    assert with_processor(processor, *layer, **rest) == "torch"


@pytest.mark.parametrize(
    ("layer", "rest", "kernel"),
    [
        ((64, 21, 5, 2, 64), {}, "fastvision"),  # vectors of outputs do not come out even
        ((64, 21, 5, 2, 64), _LAST, "fastvision"),
        ((8, 21, 5, 2, 64), _BATCH, "torch"),
        ((64, 32, 3, 2, 128), {}, "fastvision"),  # planes are turned
        ((64, 32, 3, 2, 128), _LAST, "torch"),
        ((64, 64, 3, 1, 128), {}, "torch"),
        ((100, 64, 3, 1, 128), {}, "fastvision"),
        ((64, 64, 3, 1, 8), {}, "fastvision"),  # few multiplications
        ((64, 64, 3, 1, 8), _LAST, "fastvision"),
        ((8, 64, 3, 2, 20), _LAST, "fastvision"),
        ((8, 64, 3, 2, 128), _LAST, "torch"),
        ((1024, 512, 4, 2, 8), {"padding": (1, 1)}, "torch"),  # many weights
        ((1024, 512, 4, 2, 8), {}, "fastvision"),  # of which nothing is cut off
        ((64, 64, 1, 1, 128), {}, "torch"),
        ((64, 64, 3, 2, 40), {"dilation": (2, 2)}, "torch"),
        ((64, 64, 16, 8, 40), {}, "fastvision"),  # large strides
        ((64, 64, 16, 8, 40), _LAST, "fastvision"),
        ((64, 64, 16, 8, 2), {**_LAST, "input": torch.Size((2, 64, 1, 2))}, "fastvision"),
        ((21, 21, 32, 16, 40, 21), _LAST, "fastvision"),
        ((21, 21, 16, 8, 20, 21), _LAST, "fastvision"),
        ((21, 21, 16, 8, 80, 21), _LAST, "fastvision"),  # 36 MB
        ((256, 64, 2, 2, 128), {}, "fastvision"),  # windows
        ((256, 64, 2, 2, 8), {}, "fastvision"),
        ((256, 128, 2, 2, 64), _LAST, "torch"),
        ((256, 256, 2, 2, 128), _LAST, "fastvision"),
        ((64, 64, 3, 2, 300), _LAST, "fastvision"),  # 92 MB
        ((64, 16, 3, 2, 64, 8), {}, "fastvision"),  # groups
        ((64, 128, 3, 2, 64, 8), {}, "torch"),
        ((64, 128, 3, 2, 200, 8), {}, "fastvision"),
        ((64, 16, 3, 1, 64, 8), {}, "fastvision"),
        ((64, 16, 2, 2, 64, 8), {}, "fastvision"),
        ((64, 64, 1, 1, 64, 8), {}, "torch"),
        ((256, 16, 5, 2, 64, 8), _LAST, "fastvision"),
        ((64, 16, 3, 2, 64, 8), _LAST, "torch"),
        ((100, 100, 4, 2, 80, 100), {}, "fastvision"),  # depthwise
        ((100, 100, 4, 2, 20, 100), {}, "fastvision"),
        ((100, 100, 4, 2, 12, 100), {}, "torch"),
        ((64, 64, 4, 2, 24, 64), {}, "torch"),
        ((64, 64, 4, 2, 24, 64), _LAST, "fastvision"),
        ((100, 100, 4, 2, 20, 100), _LAST, "fastvision"),
        ((4, 4, 4, 2, 2048, 4), _LAST, "torch"),  # each thread would turn an image of 64 MB
    ],
)
def test_with_avx512(layer: tuple[int, ...], rest: dict[str, Any], kernel: str) -> None:
    assert with_processor("AVX512", *layer, **rest) == kernel


@pytest.mark.parametrize("processor", ["DEFAULT", "AVX2", "AVX512"])
def test_in_double(processor: str) -> None:
    """torch has no fast kernel for it; the largest layers are matrix products all the same."""
    for layer in ((64, 64, 3, 1, 128), (64, 64, 4, 2, 24, 64), (64, 2, 7, 2, 64)):
        assert with_processor(processor, *layer, **_DOUBLE) == "fastvision"
    assert with_processor(processor, 64, 2, 2, 2, 64, **_DOUBLE) == "torch"
    assert chosen(21, 21, 3, 2, 40, 21, **_DOUBLE) == "fastvision" and chosen(64, 2, 2, 2, 64, **_DOUBLE) == "torch"
    large = with_processor(processor, 1024, 512, 4, 2, 4, **_DOUBLE)
    assert large == ("fastvision" if processor == "AVX512" else "torch")


def test_torch_in_any_dtype() -> None:
    """On the CPU that takes a processor that multiplies both half types."""
    x, weight = torch.empty(1, 512, 4, 4), torch.empty(512, 256, 4, 4)
    planned = plan(x, weight, 2, 1, 0, 1, 1)
    native = {torch.float16, torch.bfloat16} <= NATIVE_HALF
    assert planned.kernel == "torch" and planned.always_torch == native
    assert not plan(x.double(), weight.double(), 2, 1, 0, 1, 1).always_torch
    assert not plan(x, weight, 2, 1, 0, 3, 1).always_torch  # 512 channels in 3 groups are an error


@pytest.mark.parametrize("dtypes", list(itertools.product(_FLOATS[:2], _FLOATS, (None, *_FLOATS))), ids=str)
def test_what_is_always_torchs_under_autocast(
    dtypes: tuple[torch.dtype, ...], monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """It comes to what it does when autocast is asked for first."""
    x, weight = torch.rand(1, 8, 4, 4).to(device, dtypes[0]), torch.rand(8, 4, 3, 3).to(device, dtypes[1])
    bias = None if dtypes[2] is None else torch.rand(4).to(device, dtypes[2])
    results = []
    for always in (True, False):
        planned = plan(x, weight, 2, 1, 0, 1, 1)._replace(kernel="torch", always_torch=always)
        monkeypatch.setattr(_module, "remembered_plan", lambda *_, planned=planned: planned)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            results.append(ops.conv_transpose2d(x, weight, bias, 2, 1))
        outside = ops.conv_transpose2d(x, weight, bias, 2, 1)
        assert outside.dtype == x.dtype
    assert results[0].dtype == results[1].dtype
    torch.testing.assert_close(*results)
