"""max_unpool2d against torch and against a loop, where indices meet, stray or name no pixel; bitwise repeatable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from roi_checks import bitwise_repeatable
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import DTYPES
from fastvision.testing.cases.upsample.max_unpool2d import pooled

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
unpool = torch.ops.fastvision.max_unpool2d


def loop(values: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, H, W] -> [N, C, *size], one number at a time."""
    out = torch.zeros(*values.shape[:2], size[0] * size[1], dtype=values.dtype)
    for n, c, i, j in torch.cartesian_prod(*(torch.arange(s) for s in values.shape)).tolist():
        out[n, c, places[n, c, i, j]] = values[n, c, i, j]
    return out.view(*values.shape[:2], *size)


def unpooled_and_gradient(op: Any, values: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    leaf = values.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = op(leaf, *args)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    return out.detach(), torch.autograd.grad((out * weight).sum(), leaf)[0]


def test_the_worked_example(device: torch.device) -> None:
    image = torch.tensor([[1.0, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8]], device=device)
    largest, switches = ops.max_pool2d_with_indices(image[None], 2)
    assert largest.tolist() == [[[5, 6], [7, 8]]]
    out = ops.max_unpool2d(torch.tensor([[[1.0, 2], [3, 4]]], device=device), switches, 2)
    assert out.tolist() == [[[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]]


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 64])
def test_equals_torchs(layout: Any, dtype: torch.dtype, channels: int, device: torch.device) -> None:
    """Bitwise, gradients too, as no windows overlap."""
    features = data.feature_map(2, channels, 28, 21).to(device, dtype).to(memory_format=layout)
    for how in ((2,), ((4, 3),), (2, 3, 1), (1,)):
        values, switches = pooled(features, *how)
        args = (switches, *(how + (None, 0)[len(how) - 1 :]), (28, 21))
        ours, theirs = (unpooled_and_gradient(f, values, *args) for f in (ops.max_unpool2d, F.max_unpool2d))
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
        assert ours[0].is_contiguous(memory_format=layout) and ours[1].is_contiguous(memory_format=layout)


@LAYOUTS
@pytest.mark.parametrize("channels", [17, 26])  # a block a plane, from 48 planes on
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), ((2, 3), (2, 1))], ids=str)
def test_of_overlapping_windows_the_last_stays(
    layout: Any, kernel: Any, stride: Any, channels: int, device: torch.device
) -> None:
    features = data.feature_map(2, channels, 25, 31).to(device).to(memory_format=layout)
    values, switches = pooled(features, kernel, stride)
    values = values + torch.rand(values.shape, generator=data.generator()).to(device)  # which of them shows
    size = (25, 31)
    out, gradient = unpooled_and_gradient(unpool, values, switches, *size)
    assert torch.equal(out.cpu(), loop(values.cpu(), switches.cpu(), size))
    assert len(switches[0, 0].unique()) < switches[0, 0].numel()
    # every place passes on its gradient once
    weight = torch.linspace(-1, 1, out.numel(), device=device).reshape(out.shape)
    torch.testing.assert_close((gradient * values).sum(), (weight * out).sum(), rtol=1e-4, atol=1e-4)
    named = torch.zeros_like(out).flatten(2).scatter_(2, switches.flatten(2), 1.0)
    assert int((gradient != 0).sum()) == int((named.view(out.shape) * weight != 0).sum())


@given(
    st.integers(1, 3), st.integers(1, 20), st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 40)] * 2),
    st.integers(0, 2**31), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_random_indices(
    device: torch.device,
    batch: int,
    channels: int,
    size: tuple[int, int],
    out_size: tuple[int, int],
    seed: int,
    unlike: bool,
    last: bool,
    narrow: bool,
) -> None:
    """Any places at all, a permutation of distinct ones too, in every mixture of formats."""
    g = data.generator(seed)
    shape, pixels = (batch, channels, *size), out_size[0] * out_size[1]
    values = torch.randn(shape, generator=g, dtype=torch.float64)
    places = torch.randint(pixels, shape, generator=g)
    if unlike and pixels >= size[0] * size[1]:
        places = torch.rand(batch, channels, pixels, generator=g).argsort(-1)[..., : size[0] * size[1]].view(shape)
    expected = loop(values, places, out_size)
    if last:
        values = values.to(memory_format=torch.channels_last)
    if last != narrow:
        places = places.to(memory_format=torch.channels_last)
    on_device = (values.to(device), (places.int() if narrow else places).to(device))
    out, gradient = (t.cpu() for t in unpooled_and_gradient(unpool, *on_device, *out_size))
    assert torch.equal(out, expected)
    # a winner's gradient is its place's, the others' is zero: counted by unpooling ones with their own position
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(batch, channels, pixels)
    position = torch.arange(size[0] * size[1], dtype=torch.float64).view(1, 1, *size).expand(shape)
    winner = loop(position, places, out_size).flatten(2).gather(2, places.flatten(2))
    there = weight.gather(2, places.flatten(2))
    assert torch.equal(gradient.flatten(2), torch.where(winner == position.flatten(2), there, 0))


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [16, 31, 44, 96, 127, 201])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_of_any_length(layout: Any, dtype: torch.dtype, width: int, rows: int, device: torch.device) -> None:
    """Cells two pixels wide, with pixels right of them and below or not."""
    features = data.feature_map(1, 3, 13, width).to(device, dtype).to(memory_format=layout)
    values, switches = pooled(features, (rows, 2))
    args = (switches, (rows, 2), None, 0, (13, width))
    ours, theirs = (unpooled_and_gradient(f, values, *args) for f in (ops.max_unpool2d, F.max_unpool2d))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@LAYOUTS
@pytest.mark.parametrize("channels", [13, 40])
@pytest.mark.parametrize("width", [14, 36, 98])
def test_one_stray_index(layout: Any, width: int, channels: int, device: torch.device) -> None:
    """Of one plane among many, into the cell of another input, before it or after."""
    features = data.feature_map(3, channels, 12, width).to(device).to(memory_format=layout)
    values, switches = pooled(features, 2)
    switches[1, 11, 4, 5] = switches[1, 11, 0, 0]
    switches[2, 7, 0, 1] = switches[2, 7, 5, 6]
    out, gradient = unpooled_and_gradient(ops.max_unpool2d, values, switches, 2)
    assert torch.equal(out.cpu(), loop(values.cpu(), switches.cpu(), (12, width)))
    assert gradient[1, 11, 0, 0] == 0 and gradient[2, 7, 0, 1] == 0 and int((gradient == 0).sum()) == 2


def test_many_planes_with_several_inputs_a_thread(device: torch.device) -> None:
    features = data.feature_map(2, 24, 132, 141).to(device)  # 66 x 70 inputs
    values, switches = pooled(features, 2)
    args = (switches, 2, None, 0, (132, 141))
    ours, theirs = (unpooled_and_gradient(f, values, *args) for f in (ops.max_unpool2d, F.max_unpool2d))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@LAYOUTS
@pytest.mark.parametrize(
    ("width", "wrong"),
    [(width, wrong) for width in (14, 36, 98) for wrong in (-1, 12 * width, 2**32 + 3, -(2**63), 2**63 - 1)],
)
def test_an_index_that_names_no_pixel(layout: Any, wrong: int, width: int, device: torch.device) -> None:
    features = data.feature_map(3, 20, 12, width).to(device).to(memory_format=layout)
    values, switches = pooled(features, 2)
    good = switches.clone()
    switches[2, 5, 1, 3], switches[1, 7, 4, 2] = 12345, wrong
    grad = torch.ones(3, 20, 12, width, device=device).to(memory_format=layout)
    backward = torch.ops.fastvision.max_unpool2d_backward
    if device.type == "cpu" and fastvision.BACKEND == "native":
        message = (
            rf"expected indices in \[0, {12 * width}\), the pixels of an output plane, got {wrong} at \[1, 7, 4, 2\]"
        )
        with pytest.raises(IndexError, match="max_unpool2d: " + message):
            ops.max_unpool2d(values, switches, 2)
        with pytest.raises(IndexError, match="max_unpool2d_backward: " + message):
            backward(grad, switches)
        return
    out, expected = ops.max_unpool2d(values, switches, 2), ops.max_unpool2d(values, good, 2)
    gradient, whole = backward(grad, switches), backward(grad, good)
    for place in ((2, 5, 1, 3), (1, 7, 4, 2)):
        expected[place[:2]].view(-1)[good[place]] = 0
        whole[place] = 0
    assert torch.equal(out, expected) and torch.equal(gradient, whole)


def test_output_sizes(device: torch.device) -> None:
    """The rules are torch's."""
    values, switches = pooled(data.feature_map(1, 2, 9, 11).to(device), 2)
    for size in ((9, 11), (1, 2, 9, 10), torch.Size([8, 10])):
        everywhere = switches * 0 + 5
        expected = F.max_unpool2d(values.cpu(), everywhere.cpu(), 2, output_size=list(size))  # on CUDA any one stays
        assert torch.equal(ops.max_unpool2d(values, everywhere, 2, output_size=size).cpu(), expected)
    for size in ((6, 10), (8, 12), (10, 10)):
        with pytest.raises(ValueError, match=r"output_size\[-[12]\] between"):
            ops.max_unpool2d(values, switches, 2, output_size=size)
    with pytest.raises(ValueError, match="expected an output_size of 2 or 4 numbers"):
        ops.max_unpool2d(values, switches, 2, output_size=(9,))
    with pytest.raises(ValueError, match="expected an output size >= 0"):
        ops.max_unpool2d(values[:, :, :1], switches[:, :, :1], 2, padding=3)


@LAYOUTS
@pytest.mark.parametrize("channels", [18, 25])
def test_large_cells_and_more_inputs_than_outputs(layout: Any, channels: int, device: torch.device) -> None:
    features = data.feature_map(2, channels, 36, 45).to(device).to(memory_format=layout)
    values, switches = pooled(features, (12, 9))
    out = unpool(values, switches, 36, 45)
    assert torch.equal(out.cpu(), loop(values.cpu(), switches.cpu(), (36, 45)))
    places = torch.randint(6, features.shape, generator=data.generator()).to(device).to(memory_format=layout)
    for size in ((2, 3), (1, 6), (6, 1)):
        out, gradient = unpooled_and_gradient(unpool, features, places, *size)
        assert torch.equal(out.cpu(), loop(features.cpu(), places.cpu(), size))
        assert int((gradient != 0).sum()) == out.numel()


def test_nothing_to_unpool(device: torch.device) -> None:
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)):
        values = torch.zeros(shape, device=device)
        out, gradient = unpooled_and_gradient(unpool, values, values.long(), 8, 10)
        assert out.shape == (*shape[:2], 8, 10) and not out.any() and gradient.shape == shape
    values = torch.ones(1, 1, 2, 2, device=device)
    if device.type == "cpu" and fastvision.BACKEND == "native":
        with pytest.raises(IndexError, match=r"indices in \[0, 0\)"):
            unpool(values, values.long(), 0, 3)
    else:
        assert unpool(values, values.long(), 0, 3).shape == (1, 1, 0, 3)


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        (torch.zeros(2, 8), torch.zeros(2, 8).long(), r"expected an input of shape \[N, C, H, W\].*got \[2, 8\]"),
        (
            torch.zeros(1, 1, 2, 3),
            torch.zeros(1, 1, 3, 2).long(),
            r"expected indices of the shape.*got \[1, 1, 3, 2\]",
        ),
        (torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3), "expected indices of dtype int64 or int32"),
        (torch.zeros(1, 1, 2, 3).long(), torch.zeros(1, 1, 2, 3).long(), "expected the input of dtype float32"),
    ],
)
def test_bad_arguments(values: Tensor, indices: Tensor, message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match="max_unpool2d: " + message):
        ops.max_unpool2d(values.to(device), indices.to(device), 2)


def test_backward_checks_its_arguments(device: torch.device) -> None:
    backward = torch.ops.fastvision.max_unpool2d_backward
    with pytest.raises(ValueError, match="expected indices with the batch and channels of grad"):
        backward(torch.zeros(1, 2, 4, 4, device=device), torch.zeros(1, 3, 2, 2, device=device).long())
    with pytest.raises(ValueError, match="expected grad of shape"):
        backward(torch.zeros(2, 4, 4, device=device), torch.zeros(1, 3, 2, 2, device=device).long())


@LAYOUTS
@pytest.mark.parametrize("how", [(2,), (3, 2)], ids=str)
def test_bitwise_repeatable(layout: Any, how: Any, device: torch.device) -> None:
    """In planes large enough to be shared out."""
    values, switches = pooled(data.feature_map(3, 40, 49, 63).to(device).to(memory_format=layout), *how)
    bitwise_repeatable(lambda: unpooled_and_gradient(unpool, values, switches, 49, 63))


def test_second_derivative_is_the_op(device: torch.device) -> None:
    values, switches = pooled(data.feature_map(2, 3, 9, 9).to(device), 3, 2)
    leaf = values.requires_grad_()
    out = ops.max_unpool2d(leaf, switches, 3, 2)
    weight = torch.ones_like(out, requires_grad=True)
    (gradient,) = torch.autograd.grad(out, leaf, weight, create_graph=True)
    (second,) = torch.autograd.grad(gradient, weight, values.detach())
    assert torch.equal(second, out)


def test_module_takes_the_place_of_torchs(device: torch.device) -> None:
    values, switches = pooled(data.feature_map(1, 3, 9, 8).to(device), 2)
    ours, theirs = ops.MaxUnpool2d(2), torch.nn.MaxUnpool2d(2)
    assert isinstance(ours, torch.nn.MaxUnpool2d) and repr(ours) == repr(theirs)
    size = [9, 8]
    assert torch.equal(ours(values, switches, size), theirs(values, switches, size))
    assert torch.equal(ours(values[0], switches[0]), theirs(values[0], switches[0]))


def test_pooling_is_torchs(device: torch.device) -> None:
    features = data.feature_map(2, 4, 9, 11).to(device).requires_grad_()
    values, switches = ops.max_pool2d_with_indices(features, 3, 2, 1)
    expected, places = F.max_pool2d(features, 3, 2, 1, return_indices=True)
    assert torch.equal(values, expected) and torch.equal(switches, places) and switches.dtype == torch.int64
    weight = torch.linspace(-1, 1, values.numel(), device=device).view(values.shape)
    ours, theirs = (torch.autograd.grad((v * weight).sum(), features)[0] for v in (values, expected))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("length", [5, 300])
def test_gradient_of_a_column_with_any_strides(length: int, device: torch.device) -> None:
    """The stride of an only column means nothing, and is what a transpose made of it."""
    x = torch.randn(1, 1, length, 1, device=device, requires_grad=True)
    places = torch.arange(0, 2 * length, 2, device=device).view(1, 1, length, 1)
    out = ops.max_unpool2d(x, places, (2, 1))
    (out.transpose(2, 3) * torch.arange(2.0 * length, device=device)).sum().backward()
    assert x.grad is not None and torch.equal(x.grad.flatten(), torch.arange(0.0, 2 * length, 2, device=device))
