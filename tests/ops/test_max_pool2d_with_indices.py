"""max_pool2d_with_indices against torch's own, which it may be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvision import _library, ops

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing is registered")
# kernel, stride and dilation
LAYERS = [
    (2, 2, 1),
    (3, 2, 1),
    (3, 3, 1),
    (3, 1, 1),
    (2, 3, 1),
    (2, 1, 2),
    ((2, 3), (3, 2), (2, 1)),
    (1, 1, 1),
    (5, 4, 2),
]
SIZES = [(2, 3, 12, 13), (1, 4, 9, 40), (1, 1, 9, 9), (3, 2, 33, 71)]


def pair(size: Any) -> list[int]:
    return list(size) if isinstance(size, tuple) else [size, size]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_op(layer: tuple[Any, Any, Any], dtype: torch.dtype, device: torch.device) -> None:
    kernel, stride, dilation = layer
    for size in SIZES:
        x = torch.randint(-3, 4, size, device=device).to(dtype)  # equal values in many windows
        x.view(-1)[:: max(1, x.numel() // 7)] = torch.nan
        x.view(-1)[3 :: max(2, x.numel() // 5)] = -torch.inf
        x[0, 0, :6] = -torch.inf
        actual = torch.ops.fastvision.max_pool2d_with_indices(x, [*pair(kernel), *pair(stride), *pair(dilation)])
        expected = F.max_pool2d(x, kernel, stride, dilation=dilation, return_indices=True)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=300)
@given(
    planes=st.sampled_from([1, 3, 70]),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 2, 3, 5, 2**40, 2**60])),
    dilation=st.tuples(st.integers(1, 3), st.sampled_from([1, 1, 2, 3])),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_rows_of_any_length(
    planes: int, sides: Any, kernel: Any, stride: Any, dilation: Any, dtype: torch.dtype, device: torch.device
) -> None:
    """What is computed beyond a row, by each thread, is overwritten; of the input nothing beyond its end is read."""
    if any(d > side or d * (k - 1) >= side for d, k, side in zip(dilation, kernel, sides, strict=True)):
        return
    x = torch.randint(-4, 5, (1, planes, *sides), device=device).to(dtype)
    x.view(-1)[:: max(1, x.numel() // 9)] = torch.nan
    near = tuple(min(s, 100) for s in stride)
    if _library.BACKEND != "native" or x.is_cuda:
        stride = near  # torch's own, elsewhere, takes 32 bits
    actual = torch.ops.fastvision.max_pool2d_with_indices(x, [*kernel, *stride, *dilation])
    expected = F.max_pool2d(x, kernel, near, dilation=dilation, return_indices=True)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def test_large_windows_of_short_rows_are_torchs(device: torch.device) -> None:
    x = torch.rand(1, 512, 7, 7, device=device, requires_grad=True)
    for kernel, name in ((7, "MaxPool2DWithIndices"), (2, "Eager_max_pool2d_with_indices")):
        values, indices = ops.max_pool2d_with_indices(x, kernel)
        torch.testing.assert_close((values, indices), F.max_pool2d(x, kernel, return_indices=True))
        if device.type == "cpu":
            assert type(values.grad_fn).__name__.startswith(name)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_function_and_its_gradients(layer: tuple[Any, Any, Any], device: torch.device) -> None:
    kernel, stride, dilation = layer
    for size in ((2, 4, 33, 41), (1, 2, 50, 64), (1, 2, 9, 11)):
        x = torch.randn(size, device=device, requires_grad=True)
        values, indices = ops.max_pool2d_with_indices(x, kernel, stride, 0, dilation)
        expected = F.max_pool2d(x, kernel, stride, dilation=dilation, return_indices=True)
        torch.testing.assert_close((values, indices), expected, rtol=0, atol=0)
        assert not indices.requires_grad
        grad = torch.randn_like(values).requires_grad_()
        firsts = [torch.autograd.grad(out, x, grad, create_graph=True)[0] for out in (values, expected[0])]
        torch.testing.assert_close(*firsts)
        seconds = [torch.autograd.grad(first.square().sum(), grad)[0] for first in firsts]
        torch.testing.assert_close(*seconds)


def test_what_is_torchs(device: torch.device) -> None:
    """Other layouts, types, padding, tails and transforms; and what fits nowhere is its error."""
    x = torch.randn(2, 8, 32, 33, device=device)
    last = x.to(memory_format=torch.channels_last)
    for args in (
        (x, 3, 2, 1),
        (x, 2, None, 0, 1, True),
        (last, 2),
        (x[..., ::2], 2),
        (x[0], 2),
        (x.bfloat16(), 2),
        (x, [2], [2]),
        (x, (2, 2), [2, 2], (0, 0)),
    ):
        actual, expected = ops.max_pool2d_with_indices(*args), F.max_pool2d_with_indices(*args)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        assert actual[0].stride() == expected[0].stride()
    actual = torch.func.vmap(lambda image: ops.max_pool2d_with_indices(image, 2)[0])(x[None])
    assert torch.equal(actual[0], F.max_pool2d(x, 2))
    for wrong in ((x, 40), (x, 0), (x, 2, -1), (x, 2, 2, 2), (x, (2, 2, 2), (2,)), (x, 2, 2, 0.0)):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            ops.max_pool2d_with_indices(*wrong)


def test_what_the_op_does_not_take() -> None:
    if _library.BACKEND == "emulated":
        pytest.skip("torch's own serves")
    op = torch.ops.fastvision.max_pool2d_with_indices
    for args, message in (
        ((torch.zeros(3, 8, 8), [2] * 6), "of shape"),
        ((torch.zeros(1, 3, 8, 8), [2] * 5), "6 numbers"),
        ((torch.zeros(1, 3, 8, 8), [2, 2, 0, 2, 1, 1]), "at least 1"),
        ((torch.zeros(1, 3, 8, 8), [9, 2, 2, 2, 1, 1]), "fit into"),
        ((torch.zeros(1, 3, 8, 8), [2**33 + 1, 1, 1, 1, 2**31, 1]), "fit into"),  # no number of 64 bits tells its reach
        ((torch.zeros(1, 3, 8, 8, dtype=torch.float16), [2] * 6), "of dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            op(*args)
    for size in ((0, 3, 8, 8), (2, 0, 8, 8)):
        values, indices = op(torch.zeros(size), [2, 2, 2, 2, 1, 1])
        assert values.shape == indices.shape == (*size[:2], 4, 4)
