"""Transposed convolution against torch's, in every combination of arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transposed_layers import GEOMETRY, GROUPS, kernel

from fastvision import _library, ops

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")


@settings(max_examples=200, deadline=None)
@given(
    groups=st.sampled_from(GROUPS),
    size=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 37)),
    **GEOMETRY,
    layout=st.sampled_from(["contiguous", "channels_last", "strided"]),
    biased=st.booleans(),
)
def test_equals_torch(
    groups: Any,
    size: Any,
    taps: Any,
    stride: Any,
    dilation: Any,
    padding: Any,
    extra: Any,
    layout: str,
    biased: bool,
    device: torch.device,
) -> None:
    count, inputs, outputs = groups
    batch, height, width = size
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation, strict=True))
    sides = [
        (i - 1) * s - 2 * p + d * (k - 1) + e
        for i, s, p, d, k, e in zip((height, width), stride, padding, dilation, taps, extra, strict=True)
    ]
    if min(sides) < 0:
        padding = (0, 0)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, count * inputs, height, width, generator=g, dtype=torch.float64).to(device)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.randn(batch, count * inputs, height, 2 * width, generator=g, dtype=torch.float64)
        x = x.to(device)[..., ::2]
    weight = torch.randn(count * inputs, outputs, *taps, generator=g, dtype=torch.float64).to(device)
    bias = torch.randn(count * outputs, generator=g, dtype=torch.float64).to(device) if biased else None
    rest = (stride, padding, extra, count, dilation)
    expected = F.leaky_relu(F.conv_transpose2d(x, weight, bias, *rest), 0.1)
    actual = kernel(x, weight, bias, *rest, slope=0.1)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    if layout == "channels_last" and not expected.is_contiguous() and not x.is_contiguous():
        assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("window", [(1, 1), (2, 2), (2, 3), (4, 1)])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 17), (5, 3), (70, 40)])
@pytest.mark.parametrize("size", [(3, 7, 9), (1, 20, 31), (2, 1, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_windows_that_do_not_overlap(
    window: Any, inputs: int, outputs: int, size: Any, dtype: torch.dtype, device: torch.device
) -> None:
    """channels_last with kernel = stride has a kernel of its own; also of a part of the channels of a map."""
    g = torch.Generator().manual_seed(1)
    images, height, width = size
    x = torch.randn(images, 2 * inputs, height, width, generator=g).to(memory_format=torch.channels_last)
    x = x.to(device, dtype)[:, 1 : inputs + 1]
    weight = torch.randn(inputs, outputs, *window, generator=g).to(device, dtype)
    bias = torch.randn(outputs, generator=g).to(device, dtype)
    sums = F.conv_transpose2d(x.double(), weight.double(), None, window)
    dense = x.clone(memory_format=torch.channels_last)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 8e-3}[dtype]
    for part in (x, dense):
        for b, wanted in ((bias, sums + bias.double()[:, None, None]), (None, sums)):
            for slope in (0.1, 1.0):
                actual = kernel(part, weight, b, window, (0, 0), (0, 0), 1, (1, 1), slope=slope)
                expected = F.leaky_relu(wanted, slope)
                torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("height", [1, 9, 70, 133])
def test_many_outputs_of_many_rows(height: int, device: torch.device) -> None:
    """On CUDA the warps of a block have 8 rows of a phase each, and there are up to 8 of them."""
    g = torch.Generator().manual_seed(height)
    x = torch.randn(2, 6, height, 5, generator=g).to(device, memory_format=torch.channels_last)
    for outputs, stride, groups in ((7, 2, 1), (5, 3, 2), (2, 1, 3)):
        weight = torch.randn(6, outputs, 3, 4, generator=g).to(device)
        geometry = (stride, stride, 1, 0, 0, 0, 1, 1, groups)
        actual = torch.ops.fastvision.conv_transpose2d(x, weight, None, geometry, 1.0)
        expected = F.conv_transpose2d(x.double(), weight.double(), None, stride, (1, 0), 0, groups)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("slope", [1.0, 0.1])
def test_bands_of_rows(channels_last: bool, dtype: torch.dtype, slope: float, device: torch.device) -> None:
    """Dense layers of 16 channels or more are summed up in bands of rows: several of them; also of a part of a map."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(3, 21, 70, 50, generator=g)
    x = (x.to(memory_format=torch.channels_last) if channels_last else x).to(device, dtype)[:, 1:]
    weight, bias = (torch.randn(size, generator=g).to(device, dtype) for size in ((20, 24, 5, 4), (24,)))
    rest = ((2, 3), (1, 2), (1, 0), 1, (1, 1))
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for part in (x, x.flip(2).clone(memory_format=torch.preserve_format)):
        for b in (bias, None):
            expected = F.conv_transpose2d(part.double(), weight.double(), None if b is None else b.double(), *rest)
            actual = kernel(part, weight, b, *rest, slope=slope)
            torch.testing.assert_close(actual.double(), F.leaky_relu(expected, slope), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_too_long_for_bands(channels_last: bool, device: torch.device) -> None:
    x = torch.randn(1, 16, 2, 70000, device=device)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    rest = ((1, 2), (0, 0), (0, 0), 1, (1, 1))
    weight = torch.randn(16, 16, 2, 2, device=device)
    expected = F.conv_transpose2d(x, weight, None, *rest)
    torch.testing.assert_close(kernel(x, weight, None, *rest, slope=1.0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_that_is_never_made(layout: torch.memory_format, device: torch.device) -> None:
    """The stride of a single pixel, and the dilation of a single tap: any numbers."""
    x = torch.randn(2, 3, 1, 5, device=device).to(memory_format=layout)
    weight = torch.randn(3, 4, 3, 1, device=device)
    rest = ((301, 2), (1, 1), (0, 0), 1, (1, 1 << 40))
    expected = F.conv_transpose2d(x, weight, None, (1, 2), (1, 1))
    torch.testing.assert_close(kernel(x, weight, None, *rest, slope=1.0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", [(1, 0), (0, 2), (1, 1), (0, 0)])
def test_windows_that_are_shifted(padding: Any, device: torch.device) -> None:
    """Padding on one side and output_padding on the other leave the size that windows side by side have."""
    x = torch.randn(1, 5, 9, 8, device=device).to(memory_format=torch.channels_last)
    weight, extra = torch.randn(5, 3, 5, 5, device=device), (2 * padding[0], 2 * padding[1])
    expected = F.conv_transpose2d(x, weight, None, 5, padding, extra)
    assert expected.shape[2:] == (45, 40)
    actual = kernel(x, weight, None, (5, 5), padding, extra, 1, (1, 1), slope=1.0)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ops.conv_transpose2d(x, weight, None, 5, padding, extra), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4, 16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("width", [17, 41])
def test_bits_do_not_depend_on_threads(groups: int, channels_last: bool, width: int, device: torch.device) -> None:
    x = torch.randn(2, 16, 30, width, device=device)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    weight = torch.randn(16, 16 // groups, 4, 4, device=device)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(kernel(x, weight, None, (2, 2), (1, 1), (0, 0), groups, (1, 1)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_the_lectures_example(device: torch.device) -> None:
    """Filter (x, y, z) on inputs a, b with stride 2: ax, ay, az + bx, by, bz."""
    a, b, x, y, z = 2.0, 3.0, 5.0, 7.0, 11.0
    inputs, taps = torch.tensor([[[a, b]]], device=device), torch.tensor([[[x, y, z]]], device=device)
    out = ops.conv_transpose1d(inputs, taps, stride=2)
    assert out.tolist() == [[[a * x, a * y, a * z + b * x, b * y, b * z]]]


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_that_begin_anywhere(groups: int, dtype: torch.dtype, device: torch.device) -> None:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(1, 8, 5, 6, generator=g).to(device, dtype)
    weight = torch.randn(8 * (8 // groups) * 64 + 1, generator=g).to(device, dtype)[1:].view(8, 8 // groups, 8, 8)
    expected = F.conv_transpose2d(x.double(), weight.double(), None, 4, 2, 0, groups)
    actual = kernel(x, weight, None, (4, 4), (2, 2), (0, 0), groups, (1, 1), slope=1.0)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_pixel_reaches_its_kernel_only(bad: float, device: torch.device) -> None:
    x = torch.randn(1, 3, 9, 40, device=device)
    x[0, 1, 4, 20] = bad
    weight = torch.randn(3, 5, 4, 4, device=device)
    expected = F.conv_transpose2d(x, weight, None, 2, 1)
    actual = kernel(x, weight, None, (2, 2), (1, 1), (0, 0), 1, (1, 1), slope=1.0)
    assert torch.equal(actual.isfinite(), expected.isfinite())
    assert 0 < int((~actual.isfinite()).sum()) == 5 * 16


def test_a_diagonal_layer_is_depthwise(device: torch.device) -> None:
    x, kernels = torch.randn(2, 6, 8, 9, device=device), torch.randn(6, 1, 8, 8, device=device)
    dense = torch.zeros(6, 6, 8, 8, device=device)
    dense[range(6), range(6)] = kernels[:, 0]
    rest = ((4, 4), (2, 2), (0, 0))
    assert torch.equal(
        kernel(x, dense, None, *rest, 1, (1, 1), slope=1.0), kernel(x, kernels, None, *rest, 6, (1, 1), slope=1.0)
    )
    dense[0, 5, 7, 7] = 1e-30  # no longer
    torch.testing.assert_close(
        kernel(x, dense, None, *rest, 1, (1, 1), slope=1.0),
        F.conv_transpose2d(x, dense, None, 4, 2),
        rtol=1e-4,
        atol=1e-4,
    )


def test_module_is_torchs(device: torch.device) -> None:
    plain = nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, 2, device=device)
    ours = ops.ConvTranspose2d(6, 4, 3, 2, 1, 1, 2, activation="relu", device=device)
    ours.load_state_dict(plain.state_dict())
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert isinstance(ours, nn.ConvTranspose2d)
    assert repr(ops.ConvTranspose2d(6, 4, 3, 2, 1, 1, 2)) == repr(plain)
    assert repr(ours) == repr(plain)[:-1] + ", activation='relu')"
    x = torch.randn(2, 6, 5, 7, device=device)
    torch.testing.assert_close(ours(x), plain(x).relu())
    torch.testing.assert_close(ours(x, output_size=[9, 13]), plain(x, output_size=[9, 13]).relu())
    with pytest.raises(ValueError, match="zeros"):
        ops.ConvTranspose2d(1, 1, 1, padding_mode="reflect")


def test_autocast_casts_as_torch_does(device: torch.device) -> None:
    plain, ours = nn.ConvTranspose2d(8, 4, 4, 2, 1).to(device), ops.ConvTranspose2d(8, 4, 4, 2, 1).to(device)
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 20, 30, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        expected, actual = plain(x), ours(x)
    assert actual.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"weight": torch.zeros(4, 2, 2, 2)},
            r"expected weight of shape \[3, O / groups, kh, kw\].*got \[4, 2, 2, 2\]",
        ),
        ({"weight": torch.zeros(3, 2, 2)}, "expected weight of shape"),
        ({"input": torch.zeros(3, 2)}, "expected input of shape"),
        ({"groups": 2}, "expected groups to divide the 3 input channels, got 2"),
        ({"bias": torch.zeros(5)}, r"expected bias of shape \[2\], got \[5\]"),
        ({"stride": 0}, "expected stride and dilation > 0"),
        ({"output_padding": 2, "stride": 2, "groups": 1}, "expected output_padding below stride or dilation"),
        ({"padding": 9}, "expected a non-empty output"),
        ({"activation": "gelu"}, "expected activation"),
    ],
)
def test_errors_say_what_was_expected(change: dict[str, Any], text: str, device: torch.device) -> None:
    call: dict[str, Any] = {"input": torch.zeros(1, 3, 4, 4), "weight": torch.zeros(3, 2, 2, 2), **change}
    call = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in call.items()}
    with pytest.raises((ValueError, RuntimeError), match=text):
        ops.conv_transpose2d(**call)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("negative_slope", [0.2, -0.5, 0.0])
def test_gradient_through_the_activation(activation: Any, negative_slope: float, device: torch.device) -> None:
    x = torch.randn(1, 16, 30, 30, dtype=torch.float64, device=device, requires_grad=True)
    weight = torch.randn(16, 4, 3, 3, dtype=torch.float64, device=device)
    out = ops.conv_transpose2d(x, weight, None, 2, activation=activation, negative_slope=negative_slope)
    plain = F.conv_transpose2d(x, weight, None, 2)
    expected = plain.relu() if activation == "relu" else F.leaky_relu(plain, negative_slope)
    grad = torch.randn_like(out)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(o, x, grad)[0] for o in (out, expected)))


def test_no_gradient_passes_a_closed_relu(device: torch.device) -> None:
    """Not even an infinite one; and what is NaN stays so."""
    x = torch.ones(1, 2, 30, 30, device=device, requires_grad=True)
    out = ops.conv_transpose2d(x, -torch.ones(2, 4, 2, 2, device=device), None, 2, activation="relu")
    (grad,) = torch.autograd.grad(out, x, torch.full_like(out, float("inf")))
    assert torch.equal(grad, torch.zeros_like(grad))


def test_dtypes_that_do_not_fit(device: torch.device) -> None:
    ones, weight = torch.ones(1, 2, 3, 3, device=device), torch.ones(2, 4, 2, 2, device=device)
    for x, w in ((ones.long(), weight), (ones, weight * 1j), (ones, weight.long())):
        with pytest.raises(ValueError, match="expected"):
            ops.conv_transpose2d(x, w)
    with pytest.raises(ValueError, match="expected at least one input channel"):
        ops.conv_transpose2d(ones[:, :0], weight[:0])
