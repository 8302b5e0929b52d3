"""box_iou, encode_boxes and decode_boxes: properties, edges, and torchvision where it is installed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvision import ops
from fastvision.testing import data

coordinate = st.floats(-1000, 1000, width=32)
side = st.floats(0.25, 500, width=32)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
boxes = st.lists(box, min_size=1, max_size=12).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


@given(a=boxes, b=boxes)
def test_iou_properties(a: Any, b: Any, device: torch.device) -> None:
    a, b = a.to(device), b.to(device)
    iou = ops.box_iou(a, b)
    assert ((iou >= 0) & (iou <= 1 + 1e-12)).all()
    assert torch.equal(iou, ops.box_iou(b, a).T)
    torch.testing.assert_close(ops.box_iou(a, a).diagonal(), torch.ones_like(a[:, 0]))
    torch.testing.assert_close(iou, ops.box_iou(a * 2, b * 2))
    torch.testing.assert_close(iou, ops.box_iou(a + 64, b + 64), atol=1e-9, rtol=0)


@given(rows=boxes, weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4))
def test_decode_inverts_encode(rows: Any, weights: list[float], device: torch.device) -> None:
    rows = rows.to(device)
    anchors = rows.flip(0)
    ratio = (rows[:, 2:] - rows[:, :2]) / (anchors[:, 2:] - anchors[:, :2])
    rows = rows[(ratio < 1000 / 16).all(1)]
    anchors = anchors[(ratio < 1000 / 16).all(1)]
    again = ops.decode_boxes(ops.encode_boxes(rows, anchors, weights), anchors, weights)
    torch.testing.assert_close(again, rows, rtol=1e-9, atol=1e-6)


def test_iou_of_empty_boxes_is_zero_not_nan(device: torch.device) -> None:
    empty = torch.tensor([[3.0, 3, 3, 3], [0, 0, 10, 10], [0, 0, 0, 5]], device=device)
    assert ops.box_iou(empty, empty).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_iou_of_nan_box_is_nan(device: torch.device) -> None:
    rows = torch.tensor([[0.0, 0, float("nan"), 3], [0, 0, 2, 2]], device=device)
    assert ops.box_iou(rows, rows).isnan().tolist() == [[True, True], [True, False]]


def test_dtypes(device: torch.device) -> None:
    a = data.random_boxes(5, 20.0, 20.0).round().to(device)
    for dtype in (torch.int64, torch.int32, torch.float16, torch.bfloat16):
        assert torch.equal(ops.box_iou(a.to(dtype), a), ops.box_iou(a, a))
    assert ops.box_iou(a.double(), a).dtype == torch.float64
    assert ops.encode_boxes(a.long(), a).dtype == torch.float32
    assert ops.encode_boxes(a.half(), a).dtype == torch.float16
    assert ops.decode_boxes(a.half(), a).dtype == torch.float16


def test_mixed_dtype_decode_is_computed_in_float32(device: torch.device) -> None:
    anchors = data.random_boxes(50, 2000.0, 300.0).to(device)
    deltas = (torch.randn(50, 4, generator=data.generator(1)) * 0.1).to(device)
    exact = ops.decode_boxes(deltas.half().float(), anchors)
    torch.testing.assert_close(ops.decode_boxes(deltas.half(), anchors).float(), exact.half().float())


def test_scale_is_clamped(device: torch.device) -> None:
    anchors = torch.tensor([[0.0, 0, 16, 16]], device=device)
    out = ops.decode_boxes(torch.tensor([[0.0, 0, 100, 1e30]], device=device), anchors)
    torch.testing.assert_close(out, torch.tensor([[-492.0, -492, 508, 508]], device=device))


def test_clip(device: torch.device) -> None:
    anchors = torch.tensor([[-5.0, -5, 50, 60]], device=device)
    out = ops.decode_boxes(torch.zeros(1, 4, device=device), anchors, clip_to=(40, 30))
    assert out.tolist() == [[0, 0, 30, 40]]


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("box_iou", ((3, 5), (3, 4)), r"box_iou: expected boxes1 of shape \[N, 4\], got \[3, 5\]"),
        ("box_iou", ((3, 4), (4,)), r"box_iou: expected boxes2 of shape \[N, 4\], got \[4\]"),
        ("encode_boxes", ((3, 4), (2, 4)), r"encode_boxes: expected as many boxes as anchors"),
        ("decode_boxes", ((3, 6), (3, 4)), r"decode_boxes: expected deltas of shape \[3, 4 k\]"),
        ("decode_boxes", ((3, 4), (2, 4)), r"decode_boxes: expected deltas of shape \[2, 4 k\]"),
    ],
)
def test_bad_shapes(op: str, args: Any, message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(ops, op)(*(torch.zeros(shape, device=device) for shape in args))


def test_bad_weights_and_clip(device: torch.device) -> None:
    rows = torch.ones(2, 4, device=device)
    with pytest.raises(ValueError, match="expected 4 weights"):
        ops.encode_boxes(rows, rows, (1.0, 1.0))
    with pytest.raises(ValueError, match="expected clip_to as"):
        ops.decode_boxes(rows, rows, clip_to=(-1, 5))


def test_equals_torchvision(device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    coder = torchvision.models.detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    a, b = data.random_boxes(200).to(device), data.random_boxes(200, seed=1).to(device)
    torch.testing.assert_close(ops.box_iou(a, b), torchvision.ops.box_iou(a, b))
    torch.testing.assert_close(ops.box_area(a), torchvision.ops.box_area(a))
    torch.testing.assert_close(ops.encode_boxes(a, b, coder.weights), coder.encode_single(a, b))
    deltas = (torch.randn(200, 12, generator=data.generator(2)) * 2).to(device)
    torch.testing.assert_close(
        ops.decode_boxes(deltas, a, coder.weights), coder.decode_single(deltas, a), atol=1e-3, rtol=1e-5
    )


@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
@pytest.mark.parametrize("shape", [(7, 4), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64], ids=str)
def test_formats_equal_torchvision(fmt: str, shape: Any, dtype: torch.dtype, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    a, b = (torch.randint(1, 60, shape, generator=data.generator(s)).to(device, dtype) for s in (1, 2))
    if fmt == "xyxy":
        a, b = (torch.cat([x[..., :2], x[..., :2] + x[..., 2:]], -1) for x in (a, b))
    torch.testing.assert_close(ops.box_area(a, fmt), torchvision.ops.box_area(a, fmt))
    if dtype == torch.float32:  # in others torchvision's conversion rounds
        torch.testing.assert_close(ops.box_iou(a, b, fmt), torchvision.ops.box_iou(a, b, fmt))
    with pytest.raises(ValueError, match='expected fmt "xyxy", "xywh" or "cxcywh", got "yxyx"'):
        ops.box_iou(a, b, "yxyx")
    with pytest.raises(ValueError, match="expected fmt"):
        ops.box_area(a, "yxyx")


def test_complex_boxes_are_rejected(device: torch.device) -> None:
    rows = torch.ones(2, 4, device=device)
    for op in (ops.box_iou, ops.encode_boxes, ops.decode_boxes):
        with pytest.raises(ValueError, match="of a real dtype"):
            op(rows, rows.to(torch.complex64))


@pytest.mark.parametrize("name", ["box_iou", "encode_boxes", "decode_boxes"])
def test_gradients_repeat_bitwise(name: str, device: torch.device) -> None:
    leaves = [data.random_boxes(300, 50.0, 50.0, seed).to(device).requires_grad_() for seed in (1, 2)]
    threads = torch.get_num_threads()
    grads = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            out = (
                getattr(ops, name)(*leaves) if name != "decode_boxes" else ops.decode_boxes(leaves[0] / 100, leaves[1])
            )
            grads.append(torch.autograd.grad(out.sum(), leaves))
    finally:
        torch.set_num_threads(threads)
    for pair in grads[1:]:
        assert all(torch.equal(x, y) for x, y in zip(pair, grads[0], strict=True))


OVERLAPS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
LOSSES = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")


def grads(value: torch.Tensor, *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    weight = torch.linspace(-1, 1, value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
    return torch.autograd.grad((value * weight).sum(), leaves)


@pytest.mark.parametrize("name", OVERLAPS)
@pytest.mark.parametrize("count", [(70, 1100), (1100, 70), (3, 17)])  # one tile of the backward pass and more
def test_overlaps_equal_torchvision(name: str, count: tuple[int, int], device: torch.device) -> None:
    theirs = pytest.importorskip("torchvision").ops
    a = data.random_boxes(count[0], 100.0, 40.0, 1).to(device, torch.float64).requires_grad_()
    b = data.random_boxes(count[1], 100.0, 40.0, 2).to(device, torch.float64).requires_grad_()
    ours, expected = getattr(ops, name)(a, b), getattr(theirs, name)(a, b)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    for actual, wanted in zip(grads(ours, a, b), grads(expected, a, b), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_equal_torchvision(name: str, reduction: str, device: torch.device) -> None:
    theirs = pytest.importorskip("torchvision").ops
    a = data.random_boxes(300, 100.0, 40.0, 1).to(device, torch.float64).requires_grad_()
    b = data.random_boxes(300, 100.0, 40.0, 2).to(device, torch.float64).requires_grad_()
    ours, expected = getattr(ops, name)(a, b, reduction), getattr(theirs, name)(a, b, reduction)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    for actual, wanted in zip(grads(ours, a, b), grads(expected, a, b), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-10)
    one = getattr(ops, name)(a[0], b[0])
    torch.testing.assert_close(one, getattr(theirs, name)(a[0], b[0]))


@pytest.mark.parametrize("name", OVERLAPS)
def test_elementwise_is_the_diagonal(name: str, device: torch.device) -> None:
    op = getattr(ops, name)
    a, b = data.random_boxes(24, 50.0, 40.0, 1).to(device), data.random_boxes(24, 50.0, 40.0, 2).to(device)
    torch.testing.assert_close(op(a, b, elementwise=True), op(a, b).diagonal())
    batched = op(a.reshape(2, 3, 4, 4), b.reshape(2, 3, 4, 4), elementwise=True)
    assert torch.equal(batched.flatten(), op(a, b, elementwise=True))


@pytest.mark.parametrize("name", OVERLAPS)
def test_empty_boxes_give_finite_overlaps_and_gradients(name: str, device: torch.device) -> None:
    """Points, lines and an inverted box, where published kernels divide zero by zero."""
    rows = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3], [0, 0, 0, 5], [0, 0, 10, 10], [8, 8, 6, 6]], device=device)
    a, b = rows.clone().requires_grad_(), rows.flip(0).clone().requires_grad_()
    for options in ({}, {"elementwise": True}):
        value = getattr(ops, name)(a, b, **options)
        assert value.isfinite().all()
        assert all(g.isfinite().all() for g in grads(value, a, b))
    torch.testing.assert_close(getattr(ops, name)(rows, rows)[3, 3], rows.new_tensor(1.0))


@given(a=boxes, b=boxes)
def test_relatives_of_iou_properties(a: Any, b: Any, device: torch.device) -> None:
    a, b = a.to(device), b.to(device)
    iou = ops.box_iou(a, b)
    for name in OVERLAPS[1:]:
        value = getattr(ops, name)(a, b)
        assert (value <= iou + 1e-9).all() and (value > -2.0).all()
        torch.testing.assert_close(value, getattr(ops, name)(b, a).T, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(getattr(ops, name)(a, a).diagonal(), torch.ones_like(a[:, 0]))


def test_overlap_gradients_do_not_depend_on_threads(device: torch.device) -> None:
    a, b = data.random_boxes(130, 60.0, 40.0, 1).to(device), data.random_boxes(2100, 60.0, 40.0, 2).to(device)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
            found.append(grads(ops.complete_box_iou(*leaves), *leaves))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, y) for other in found[1:] for x, y in zip(found[0], other, strict=True))


@pytest.mark.parametrize("formats", [(a, b) for a in ("xyxy", "xywh", "cxcywh") for b in ("xyxy", "xywh", "cxcywh")])
def test_box_convert(formats: tuple[str, str]) -> None:
    theirs = pytest.importorskip("torchvision").ops
    rows = data.random_boxes(20).reshape(4, 5, 4)
    torch.testing.assert_close(ops.box_convert(rows, *formats), theirs.box_convert(rows, *formats))
    back = ops.box_convert(ops.box_convert(rows, *formats), *formats[::-1])
    torch.testing.assert_close(back, rows, rtol=1e-5, atol=1e-4)
    assert ops.box_convert(rows, *formats).data_ptr() != rows.data_ptr()


def test_box_convert_unknown_format() -> None:
    for formats in (("xyxy", "yxyx"), ("yxyx", "xyxy"), ("yxyx", "yxyx")):
        with pytest.raises(ValueError, match="expected fmt"):
            ops.box_convert(torch.zeros(2, 4), *formats)


def test_clip_and_remove_small_boxes_equal_torchvision() -> None:
    theirs = pytest.importorskip("torchvision").ops
    rows = data.random_boxes(200, 100.0, 30.0) - 20
    assert torch.equal(ops.clip_boxes_to_image(rows, (50, 70)), theirs.clip_boxes_to_image(rows, (50, 70)))
    clipped = ops.clip_boxes_to_image(rows.reshape(4, 50, 4), (50, 70))
    assert torch.equal(clipped.reshape(-1, 4), theirs.clip_boxes_to_image(rows, (50, 70)))
    assert torch.equal(ops.remove_small_boxes(rows, 15.0), theirs.remove_small_boxes(rows, 15.0))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_errors(name: str, device: torch.device) -> None:
    rows = data.random_boxes(3).to(device)
    with pytest.raises(ValueError, match="reduction"):
        getattr(ops, name)(rows, rows, "median")
    with pytest.raises(ValueError, match="that broadcast"):
        getattr(ops, name)(rows, rows[:2])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_half_boxes_are_summed_in_float32(name: str, device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1]], dtype=torch.float16, device=device).expand(70_000, 4)
    for op in (getattr(ops, name), getattr(ops, name).reference):
        loss = op(boxes, boxes + 10, "sum")
        assert loss.dtype == torch.float32 and 70_000 < loss < 140_100


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shapes", [((5, 4), (4,)), ((5, 4), (1, 4)), ((3, 1, 4), (5, 4)), ((4,), (2, 3, 4))])
def test_losses_broadcast(name: str, shapes: Any, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    rows = data.random_boxes(30, 20.0, 20.0).double().to(device)
    grads = []
    oracles = [getattr(ops, name).reference]
    if max(map(len, shapes)) < 3:  # of others it cannot take the intersection
        oracles.append(getattr(torchvision.ops, name))
    for op in (getattr(ops, name), *oracles):
        leaves = [rows[: math.prod(s[:-1])].reshape(s).clone().requires_grad_() for s in shapes]
        with torch.no_grad():
            leaves[1] += 3
        loss = op(*leaves)
        grads.append((loss, *torch.autograd.grad(loss.sum(), leaves)))
    for other in grads[1:]:
        for a, b in zip(grads[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shapes", [((1, 5, 4), (5, 4)), ((5, 4), (2, 3, 4)), ((2, 1, 5, 4), (3, 6, 4))])
def test_leading_dimensions_broadcast(shapes: Any, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    a, b = (data.random_boxes(math.prod(s[:-1]), 20.0, 20.0, i).reshape(s).to(device) for i, s in enumerate(shapes))
    for name in ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"):
        torch.testing.assert_close(getattr(ops, name)(a, b), getattr(torchvision.ops, name)(a, b), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="that broadcast"):
        ops.box_iou(torch.zeros(2, 5, 4, device=device), torch.zeros(3, 5, 4, device=device))
