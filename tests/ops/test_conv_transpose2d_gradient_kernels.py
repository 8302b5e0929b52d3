"""The kernels that the gradients of our transposed convolution are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transposed_layers import GEOMETRY, GROUPS

from fastvision import _library
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to differentiate")
INPUT_GRADIENT, WEIGHT_GRADIENT = "conv_transpose2d_input_gradient", "conv_transpose2d_weight_gradient"
_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def kernels(grad: Tensor, input: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """rest: stride, padding, output_padding, groups, dilation. The input's gradient is laid out as the input is."""
    stride, padding, output_padding, groups, dilation = rest
    last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    geometry = (*stride, *padding, *output_padding, *dilation, groups)
    return (
        getattr(torch.ops.fastvision, INPUT_GRADIENT)(grad, weight, geometry, last),
        getattr(torch.ops.fastvision, WEIGHT_GRADIENT)(grad, input, geometry),
    )


def by_torch(grad: Tensor, input: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    stride, padding, output_padding, groups, dilation = rest
    tensors = grad.double(), input.double(), weight.double()
    two = torch.ops.aten.convolution_backward(
        *tensors, None, stride, padding, dilation, True, output_padding, groups, [True, True, False]
    )
    return two[0], two[1]


def in_layout(t: Tensor, layout: str) -> Tensor:
    if layout == "strided":
        return t.repeat_interleave(2, dim=3)[..., ::2]
    return t.to(memory_format=_FORMATS[layout])


def a_layer(
    groups: tuple[int, int, int], size: tuple[int, int, int], taps: tuple[int, int], dtype: torch.dtype, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """grad, input and weight, of numbers that the dtype has"""
    g = data.generator(5)
    count, inputs, outputs = groups
    input = torch.randn(size[0], count * inputs, *size[1:], generator=g).to(dtype)
    weight = torch.randn(count * inputs, outputs, *taps, generator=g).to(dtype)
    output = torch.conv_transpose2d(input.double(), weight.double(), None, *rest)
    return torch.randn(output.shape, generator=g).to(dtype), input, weight


@settings(max_examples=200, deadline=None)
@given(
    groups=st.sampled_from(GROUPS),
    size=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 37)),
    **GEOMETRY,
    layouts=st.tuples(*[st.sampled_from(["contiguous", "channels_last", "strided"])] * 2),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_kernels_equal_torch(
    groups: Any,
    size: Any,
    taps: Any,
    stride: Any,
    dilation: Any,
    padding: Any,
    extra: Any,
    layouts: Any,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation, strict=True))
    sides = [
        (i - 1) * s - 2 * p + d * (k - 1) + e + 1
        for i, s, p, d, k, e in zip(size[1:], stride, padding, dilation, taps, extra, strict=True)
    ]
    if min(sides) < 1:
        return
    rest = (stride, padding, extra, groups[0], dilation)
    grad, input, weight = a_layer(groups, size, taps, dtype, *rest)
    expected = by_torch(grad, input, weight, *rest)
    actual = kernels(
        in_layout(grad, layouts[0]).to(device), in_layout(input, layouts[1]).to(device), weight.to(device), *rest
    )
    eps = {torch.float64: 1e-12, torch.float32: 3e-6}.get(dtype, 2 * torch.finfo(dtype).eps)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype and a.shape == e.shape
        torch.testing.assert_close(a.double(), e, rtol=eps, atol=eps * float(e.abs().max()))
    if layouts[1] != "strided":
        assert actual[0].is_contiguous(memory_format=_FORMATS[layouts[1]])


@pytest.mark.parametrize("outputs", [1, 5])
@pytest.mark.parametrize("last", [False, True])
def test_the_fake_input_gradient_is_laid_out_as_the_true_one(outputs: int, last: bool, device: torch.device) -> None:
    grad = torch.ones(2, outputs, 1, 1, device=device).expand(2, outputs, 7, 5)
    weight = torch.rand(7, outputs, 3, 3, device=device)
    op = getattr(torch.ops.fastvision, INPUT_GRADIENT).default
    torch.library.opcheck(op, (grad, weight, [2, 2, 0, 0, 0, 0, 1, 1, 1], last), test_utils="test_faketensor")


@pytest.mark.parametrize(
    ("channels", "taps", "stride", "groups"),
    [(4, (64, 64), 32, 4), (4, (5, 5), 2, 4), (4, (7, 3), 1, 1), (20, (16, 16), 8, 1), (20, (2, 2), 2, 1)],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_an_infinite_gradient_reaches_what_it_touches(
    channels: int, taps: Any, stride: int, groups: int, layout: str, device: torch.device
) -> None:
    each = channels // groups
    rest = ((stride, stride), (1, 1), (0, 0), groups, (1, 1))
    grad, input, weight = a_layer((groups, each, each), (1, 5, 19), taps, torch.float32, *rest)
    weight = weight.abs() + 1
    grad[0, 0, grad.shape[2] // 2, -2] = torch.inf
    expected = by_torch(grad, input, weight, *rest)
    actual = kernels(in_layout(grad, layout).to(device), in_layout(input, layout).to(device), weight.to(device), *rest)
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a.isfinite().cpu(), e.isfinite())


@pytest.mark.parametrize("groups", [(1, 6, 7), (6, 1, 1)])
def test_gradients_of_no_images(groups: Any, device: torch.device) -> None:
    rest = ((2, 2), (0, 0), (0, 0), groups[0], (1, 1))
    grad, input, weight = (t.to(device) for t in a_layer(groups, (2, 4, 5), (3, 3), torch.float32, *rest))
    to_input, to_weight = kernels(grad[:0], input[:0], weight, *rest)
    assert to_input.shape == (0, 6, 4, 5)
    assert to_weight.shape == weight.shape and not to_weight.any()


@pytest.mark.skipif(_library.BACKEND != "native", reason="torch's own, elsewhere, has none")
@pytest.mark.parametrize(("groups", "taps"), [(1, (3, 3)), (1, (3, 13)), (4, (3, 3))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_no_outputs(groups: int, taps: Any, dtype: torch.dtype) -> None:
    grad = torch.zeros(1, 0, 2 * 4 + taps[0], 2 * 4 + taps[1], dtype=dtype)
    input, weight = torch.ones(1, 4, 5, 5, dtype=dtype), torch.ones(4, 0, *taps, dtype=dtype)
    to_input, to_weight = kernels(grad, input, weight, (2, 2), (0, 0), (0, 0), groups, (1, 1))
    assert to_input.shape == input.shape and not to_input.any()
    assert to_weight.shape == weight.shape


@pytest.mark.parametrize("groups", [(8, 1, 1), (1, 8, 8)])
@pytest.mark.parametrize("taps", [(3, 3), (2, 18)])
def test_what_memory_held_before_does_not_matter(groups: Any, taps: Any, device: torch.device) -> None:
    rest = ((2, 2), (1, 1), (0, 0), groups[0], (1, 1))
    layer = [t.to(device) for t in a_layer(groups, (2, 5, 21), taps, torch.float32, *rest)]
    expected = kernels(*layer, *rest)
    for _ in range(20):
        spoilt = [torch.full((count,), torch.nan, device=device) for count in range(8, 4096, 8)]
        del spoilt
        for a, e in zip(kernels(*layer, *rest), expected, strict=True):
            assert torch.equal(a, e)


@pytest.mark.skipif(_library.BACKEND != "native", reason="elsewhere torch computes them, and promises no such thing")
@pytest.mark.parametrize("groups", [(1, 21, 21), (21, 1, 1), (1, 3, 2)])
def test_gradients_do_not_depend_on_the_number_of_threads(groups: Any, device: torch.device) -> None:
    rest = ((2, 2), (1, 1), (0, 0), groups[0], (1, 1))
    layer = [t.to(device) for t in a_layer(groups, (2, 90, 61), (4, 4), torch.float32, *rest)]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(kernels(*layer, *rest))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.skipif(_library.BACKEND != "native", reason="elsewhere torch's own gradients say what they expect")
def test_gradients_say_what_they_expect() -> None:
    rest = ((2, 2), (0, 0), (0, 0), 1, (1, 1))
    grad, input, weight = a_layer((1, 6, 7), (2, 4, 5), (3, 3), torch.float32, *rest)
    cases = [
        ((grad[0], input, weight, *rest), "expected grad of shape"),
        ((grad[..., :-1], input, weight, *rest), "expected grad and weight of one layer"),
        ((grad, input, weight[:, 1:], *rest), "expected grad and weight of one layer"),
        ((grad, input, weight.double(), *rest), "expected weight of the dtype of grad"),
        ((grad, input, weight, (0, 2), *rest[1:]), "expected grad and weight of one layer"),
    ]
    for args, message in cases:
        with pytest.raises(ValueError, match=f"{INPUT_GRADIENT}: {message}"):
            kernels(*args)
    op = getattr(torch.ops.fastvision, WEIGHT_GRADIENT)
    geometry = (2, 2, 0, 0, 0, 0, 1, 1, 1)
    for other, message in ((input[:1], "of one layer"), (input[..., :2], "of one layer"), (input[0], "4 dimensions")):
        if other.shape[-1] == 2:
            geometry = (3, 3, 0, 0, 0, 0, 1, 1, 3)
        with pytest.raises(ValueError, match=message):
            op(grad, other, geometry)
    with pytest.raises(ValueError, match="9 numbers"):
        op(grad, input, geometry[1:])
