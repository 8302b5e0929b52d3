"""Upsampling without weights, by whole factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastvision import _library, ops
from fastvision.testing.case import DTYPES


def test_unlearned_upsampling_of_two_by_two(device: torch.device) -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], device=device)
    assert ops.nearest_upsample(x, 2)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert ops.bed_of_nails_upsample(x, 2)[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


@pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing is registered")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["nearest_upsample", "bed_of_nails_upsample"])
def test_the_ops(name: str, factor: int, last: bool, dtype: torch.dtype, device: torch.device) -> None:
    """Maps of every size, whoever the public functions leave them to."""
    op, back_op = getattr(torch.ops.fastvision, name), getattr(torch.ops.fastvision, f"{name}_backward")
    layout = torch.channels_last if last else torch.contiguous_format
    for size in ((2, 3, 5, 6), (1, 16, 7, 33), (2, 21, 4, 4), (1, 40, 1, 70), (3, 2, 1, 1)):
        x = torch.randn(size, device=device).to(dtype, memory_format=layout)
        out = op(x, factor)
        assert torch.equal(out, getattr(ops, name).reference(x, factor))
        kept = torch.contiguous_format if x.is_contiguous() else layout  # dense both ways counts as planes
        assert out.is_contiguous(memory_format=kept)
        grad = torch.randn(out.shape, device=device).to(dtype, memory_format=kept)
        back = back_op(grad, factor)
        cells = grad.double().unflatten(3, (size[3], factor)).unflatten(2, (size[2], factor))
        expected = cells.sum((3, 5)) if name == "nearest_upsample" else cells[:, :, :, 0, :, 0]
        tolerance = {torch.float16: 4e-3, torch.bfloat16: 4e-2}.get(dtype, 1e-5)
        torch.testing.assert_close(back.double(), expected, rtol=tolerance, atol=tolerance)
        assert back.shape == size and back.dtype == dtype and back.is_contiguous(memory_format=kept)


@pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing is registered")
@pytest.mark.parametrize("name", ["nearest_upsample", "bed_of_nails_upsample"])
def test_what_the_ops_do_not_take(name: str) -> None:
    op, back = getattr(torch.ops.fastvision, name), getattr(torch.ops.fastvision, f"{name}_backward")
    if _library.BACKEND == "emulated":
        pytest.skip("torch's own serves")
    for function, args, message in (
        (op, (torch.zeros(3, 4, 4), 2), "of shape"),
        (op, (torch.zeros(1, 3, 4, 4), 0), "at least 1"),
        (op, (torch.zeros(1, 1, 4, 4), 2**62), "at most"),
        (op, (torch.zeros(1, 3, 4, 4, dtype=torch.int64), 2), "of dtype"),
        (back, (torch.zeros(1, 3, 4, 5), 2), "divisible by 2"),
    ):
        with pytest.raises(ValueError, match=message):
            function(*args)


@pytest.mark.parametrize("op", [ops.nearest_upsample, ops.bed_of_nails_upsample])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_maps(op: Any, layout: torch.memory_format, device: torch.device) -> None:
    """Small ones may be torch's."""
    x = torch.randn(1, 32, 40, 41, device=device).to(memory_format=layout).requires_grad_()
    out, expected = op(x, 2), op.reference(x, 2)
    grad = torch.randn_like(out)
    (expected_gradient,) = torch.autograd.grad(expected, x, grad)
    for actual in (out, torch.compile(op, fullgraph=True, backend="aot_eager")(x, 2)):
        assert torch.equal(actual, expected) and actual.is_contiguous(memory_format=layout)
        torch.testing.assert_close(torch.autograd.grad(actual, x, grad)[0], expected_gradient)


@pytest.mark.parametrize("op", [ops.nearest_upsample, ops.bed_of_nails_upsample])
def test_channels_last_stays(op: Any, device: torch.device) -> None:
    x = torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
    for out in (op(x, 2), torch.func.vmap(op, (0, None))(x[None], 2)[0]):
        assert torch.equal(out, op.reference(x, 2))
    assert op(x, 2).is_contiguous(memory_format=torch.channels_last)


def test_nails_stay_where_they_are(device: torch.device) -> None:
    x = torch.full((1, 2, 2, 2), float("inf"), device=device)
    assert torch.equal(ops.bed_of_nails_upsample(x, 3), ops.bed_of_nails_upsample.reference(x, 3))


def test_shapes_are_known_without_data() -> None:
    x = torch.empty(1, 3, 4, 4, device="meta")
    assert ops.nearest_upsample(x, 2).shape == ops.bed_of_nails_upsample(x, 2).shape == (1, 3, 8, 8)


def test_nails_are_not_rounded_inside_autocast(device: torch.device) -> None:
    x = torch.full((1, 1, 2, 2), 1.001, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = ops.bed_of_nails_upsample(x, 2)
    assert torch.equal(out, ops.bed_of_nails_upsample(x, 2)) and out.dtype == torch.float32


@pytest.mark.parametrize("op", [ops.nearest_upsample, ops.bed_of_nails_upsample])
def test_exported_for_any_number_of_images(op: Any, device: torch.device) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = op(x, 2)
            return result

    images = torch.export.Dim("images", min=1, max=64)
    example = torch.randn(2, 16, 10, 11, device=device)
    model = torch.export.export(Model(), (example,), dynamic_shapes=({0: images},)).module()
    for count in (1, 3, 40):
        x = torch.randn(count, 16, 10, 11, device=device)
        assert torch.equal(model(x), op(x, 2))
