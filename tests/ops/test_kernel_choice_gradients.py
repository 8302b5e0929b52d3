"""Who computes the gradients of a transposed convolution, by its shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transposed_layers import a_layer

from fastvision.ops.upsample import kernel_choice
from fastvision.ops.upsample.kernel_choice import GradientPlan, choose_gradients, cpu, plan
from fastvision.ops.upsample.kernel_choice.light import is_worth_a_function

_BOTH, _NEITHER, _WEIGHT, _TURNED = (True, True, False), (False,) * 3, (False, True, False), (False, False, True)


@pytest.mark.parametrize(
    ("layer", "planes", "last"),
    [
        ((21, 21, 64, 32, 34, 21), _BOTH, _WEIGHT),  # FCN, depthwise
        ((21, 21, 64, 32, 34), _BOTH, _BOTH),  # and dense
        ((21, 21, 16, 8, 70, 21), _BOTH, _WEIGHT),
        ((128, 64, 2, 2, 196), _BOTH, _WEIGHT),  # U-Net's last, 39 MB
        ((128, 3, 4, 2, 256), _BOTH, _NEITHER),  # DCGAN's last, of 34 MB
        ((64, 32, 3, 2, 256), (False, True, True), _NEITHER),  # Johnson's last, of a large image
        ((256, 256, 3, 1, 56), _NEITHER, _NEITHER),  # what oneDNN is best at
        ((96, 8, 2, 2, 9), _BOTH, _BOTH),  # few products
        ((21, 21, 4, 2, 70), _TURNED, _NEITHER),  # uneven outputs
        ((64, 64, 7, 1, 14, 64), _TURNED, _NEITHER),
        ((64, 64, 3, 1, 20, 64), _NEITHER, _NEITHER),
        ((64, 32, 3, 2, 10, 4), _BOTH, _BOTH),  # groups
    ],
)
def test_whose_gradients(layer: Any, planes: Any, last: Any) -> None:
    assert choose_gradients(a_layer(*layer), "AVX512") == planes
    assert choose_gradients(a_layer(*layer, channels_last=True), "AVX512") == last
    assert choose_gradients(a_layer(*layer, dtype=torch.float64)) == _BOTH
    assert choose_gradients(a_layer(*layer, cuda=True)) == _NEITHER


@pytest.mark.parametrize(
    ("layer", "planes", "last"),
    [
        ((21, 21, 64, 32, 34, 21), _BOTH, _WEIGHT),
        ((21, 21, 64, 32, 34), _BOTH, _BOTH),
        ((128, 64, 2, 2, 196), _BOTH, _WEIGHT),
        ((64, 32, 3, 2, 256), (False, True, True), _WEIGHT),
        ((256, 256, 3, 1, 56), _WEIGHT, _WEIGHT),  # whose sum over one image oneDNN does not share among threads
        ((48, 256, 3, 1, 28), _NEITHER, _BOTH),
        ((32, 256, 7, 2, 40), _NEITHER, _NEITHER),  # patches of 80 MB
        ((32, 8, 3, 2, 36), _BOTH, _BOTH),  # patches of 370 kB
        ((320, 8, 2, 2, 9), _BOTH, _BOTH),  # kernels side by side
        ((16, 64, 3, 2, 24), _BOTH, _BOTH),  # too small for oneDNN, says torch
        ((16, 64, 5, 2, 24), _NEITHER, _NEITHER),
        ((16, 8, 3, 2, 14), _NEITHER, _BOTH),
        ((64, 64, 7, 1, 14, 64), _TURNED, _NEITHER),
        ((64, 32, 3, 2, 10, 4), _BOTH, _BOTH),
        ((64, 32, 3, 2, 40, 4), _BOTH, _NEITHER),
        ((64, 32, 3, 1, 40, 4), _NEITHER, _NEITHER),
        ((256, 1, 6, 2, 60), _BOTH, _NEITHER),  # its vectors are of outputs
        ((256, 2, 6, 2, 60), _WEIGHT, _NEITHER),
    ],
)
def test_whose_gradients_on_avx2(layer: Any, planes: Any, last: Any) -> None:
    assert choose_gradients(a_layer(*layer), "AVX2") == planes
    assert choose_gradients(a_layer(*layer, channels_last=True), "AVX2") == last


def test_many_images_on_avx2() -> None:
    """DCGAN's 64; of one image the map is small enough for both."""
    layer = a_layer(512, 256, 4, 2, 8, channels_last=True)
    assert choose_gradients(layer._replace(input=torch.Size((64, 512, 8, 8))), "AVX2") == _WEIGHT
    assert choose_gradients(layer, "AVX2") == _BOTH


@pytest.mark.parametrize("last", [False, True])
def test_whose_gradients_with_other_instructions(last: bool) -> None:
    """Those of kernels with long rows and of depthwise layers; others were not timed."""
    assert choose_gradients(a_layer(21, 21, 64, 32, 34, channels_last=last), "DEFAULT").weight
    assert choose_gradients(a_layer(21, 21, 64, 32, 34, 21, channels_last=last), "DEFAULT").weight
    for groups in (1, 4):
        layer = a_layer(64, 32, 3, 2, 10, groups, channels_last=last)
        assert choose_gradients(layer, "DEFAULT") == _NEITHER


@pytest.mark.parametrize(("capability", "padding"), [("AVX512", 6), ("AVX2", 4)])
def test_depthwise_layers_onednn_has_no_kernel_for(capability: str, padding: int) -> None:
    layer = a_layer(64, 64, 32, 8, 20, 64)
    assert not choose_gradients(layer._replace(padding=(0, padding)), capability).turned
    assert choose_gradients(layer._replace(padding=(0, padding + 1)), capability).turned


def test_only_planes_in_float32_are_turned() -> None:
    layer = a_layer(64, 64, 7, 1, 14, 64)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert not choose_gradients(layer._replace(dtype=dtype), "AVX512").turned


def test_a_layer_of_torchs_may_have_gradients_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "pays", lambda layer: False)
    weights = torch.empty(128, 64, 2, 2)
    sizes = (2, 0, 0, 1, 1)
    assert plan(torch.empty(1, 128, 196, 196), weights, *sizes).own_gradients
    assert not plan(torch.empty(1, 128, 9, 9), weights, *sizes).own_gradients  # too small for a Function in Python
    assert not plan(torch.empty(1, 48, 56, 56), torch.empty(48, 256, 3, 3), 1, 1, 0, 1, 1).own_gradients


@pytest.mark.parametrize(
    ("sizes", "planes", "last"),
    [
        ((64, 64, 4, 2, 20, 64), False, False),  # depthwise
        ((64, 64, 4, 2, 10, 64), True, False),
        ((8, 8, 9, 8, 16, 8), True, True),  # large images of few channels
        ((8, 8, 4, 2, 20, 8), True, False),  # and a small one
        ((24, 21, 3, 1, 20), False, False),
        ((24, 2, 4, 1, 20), True, True),  # vectors with most lanes empty
        ((48, 21, 3, 2, 40), True, False),
        ((48, 21, 6, 2, 20), False, False),  # many taps
        ((21, 21, 4, 2, 40), True, True),  # may be zero off the diagonal
        ((128, 16, 3, 2, 50), True, False),  # 46 million products
        ((128, 16, 3, 2, 60), True, True),  # 66
        ((48, 3, 4, 2, 40), True, True),
        ((32, 16, 3, 2, 20, 4), False, False),  # groups
        ((32, 16, 5, 2, 20, 4), False, True),
    ],
)
def test_what_a_function_in_python_is_worth(sizes: tuple[int, ...], planes: bool, last: bool) -> None:
    assert is_worth_a_function(a_layer(*sizes)) is planes
    assert is_worth_a_function(a_layer(*sizes, channels_last=True)) is last


def test_a_layer_of_ours_may_be_torchs_where_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "pays", lambda layer: True)
    monkeypatch.setattr(kernel_choice, "choose_gradients", lambda layer: GradientPlan(False, False))
    image, weights, sizes = torch.empty(1, 64, 20, 25), torch.empty(64, 1, 4, 4), (2, 1, 0, 64, 1)
    planned = plan(image, weights, *sizes)
    assert planned.kernel == "fastvision" and planned.torch_trains
    assert not plan(torch.empty(16, 64, 90, 90), weights, *sizes).torch_trains  # the Function is a small part
    assert not plan(image.double(), weights.double(), *sizes).torch_trains  # for which torch is slow
    with monkeypatch.context() as compiled:
        compiled.setattr(kernel_choice, "is_compiling", lambda: True)
        assert not plan(image, weights, *sizes).torch_trains  # nor is there a Function
    monkeypatch.setattr(kernel_choice, "choose_gradients", lambda layer: GradientPlan(True, False))
    assert not plan(image, weights, *sizes).torch_trains
