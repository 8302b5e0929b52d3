"""box_iou_rotated: properties, an independent polygon clipper, and torchvision where it is installed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastvision import ops
from fastvision.testing import data

coordinate = st.floats(-100, 100, width=32)
side = st.floats(0.125, 200, width=32)
angle = st.floats(-720, 720, width=32)
box = st.tuples(coordinate, coordinate, side, side, angle)
boxes = st.lists(box, min_size=1, max_size=9).map(lambda rows: torch.tensor(rows, dtype=torch.float64))
NAN, INF = float("nan"), float("inf")
TIGHT = {"rtol": 0.0, "atol": 1e-5}


def corners(row: list[float], clockwise: bool = False) -> list[tuple[float, float]]:
    """Of the box with the y axis pointing down, so that a positive angle turns from x towards -y."""
    x, y, w, h, degrees = row
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)) * (-1 if clockwise else 1)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [(x + i * w / 2 * c + j * h / 2 * s, y - i * w / 2 * s + j * h / 2 * c) for i, j in signs]


def shoelace(points: list[tuple[float, float]]) -> float:
    return abs(sum(p[0] * q[1] - p[1] * q[0] for p, q in zip(points, points[1:] + points[:1], strict=True))) / 2


def clipped(subject: list[tuple[float, float]], window: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Sutherland and Hodgman 1974."""
    for a, b in zip(window, window[1:] + window[:1], strict=True):
        sides = [(b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) for p in subject]
        found = []
        for i, p in enumerate(subject):
            q, at_p, at_q = subject[i - 1], sides[i], sides[i - 1]
            if (at_p >= 0) != (at_q >= 0):
                t = at_q / (at_q - at_p)
                found.append((q[0] + t * (p[0] - q[0]), q[1] + t * (p[1] - q[1])))
            if at_p >= 0:
                found.append(p)
        subject = found
    return subject


def plain_iou(a: list[float], b: list[float], clockwise: bool) -> float:
    overlap = clipped(corners(a, clockwise), corners(b, clockwise))
    inter = shoelace(overlap) if len(overlap) > 2 else 0.0
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


@pytest.mark.parametrize("clockwise", [False, True])
def test_equals_polygon_clipping(clockwise: bool, device: torch.device) -> None:
    a, b = rows(25, 1).double(), rows(30, 2).double()
    expected = torch.tensor([[plain_iou(p, q, clockwise) for q in b.tolist()] for p in a.tolist()], dtype=torch.float64)
    assert (expected > 0.05).sum() > 50
    actual = ops.box_iou_rotated(a.to(device), b.to(device), clockwise=clockwise)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-9, atol=1e-11)


def test_equals_torchvision(device: torch.device) -> None:
    theirs = pytest.importorskip("torchvision", "0.29", reason="older ones know no rotated boxes").ops
    a, b = rows(60, 3).double(), rows(80, 4).double()
    expected = theirs.box_iou(a, b, fmt="cxcywhr").double()  # float32 whatever the input
    actual = ops.box_iou_rotated(a.to(device), b.to(device))
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(ops.box_iou(a.to(device), b.to(device), fmt="cxcywhr"), actual)


def test_a_pair_whose_overlap_float32_clipping_loses(device: torch.device) -> None:
    """torchvision 0.29 says 3e-9."""
    a = [408.1680908203125, 418.25921630859375, 168.26168823242188, 331.4307861328125, 248.3092041015625]
    b = [549.5719604492188, 343.7623291015625, 181.30288696289062, 136.37161254882812, 214.4854736328125]
    pair = torch.tensor([a, b], device=device)
    assert ops.box_iou_rotated(pair[:1], pair[1:]).item() == pytest.approx(plain_iou(a, b, False), rel=1e-6)


def rows(count: int, seed: int) -> Tensor:
    return data.random_rotated_rois(count, 1, 100.0, 100.0, seed)[:, 1:]


@given(a=boxes, b=boxes)
def test_range_symmetry_and_identity(a: Any, b: Any, device: torch.device) -> None:
    a, b = a.to(device), b.to(device)
    iou = ops.box_iou_rotated(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    torch.testing.assert_close(iou, ops.box_iou_rotated(b, a).T, **TIGHT)
    torch.testing.assert_close(ops.box_iou_rotated(a, a).diagonal(), torch.ones_like(a[:, 0]), **TIGHT)
    half_turn = a + a.new_tensor([0, 0, 0, 0, 180.0])
    torch.testing.assert_close(ops.box_iou_rotated(a, half_turn).diagonal(), torch.ones_like(a[:, 0]), **TIGHT)


@given(a=boxes, b=boxes, x=st.integers(-(2**30), 2**30), y=st.integers(-(2**30), 2**30))
def test_shift_invariance(a: Any, b: Any, x: int, y: int, device: torch.device) -> None:
    # centres on a grid that huge coordinates can represent too
    a, b = ((t * t.new_tensor([8, 8, 1, 1, 1])).round() / t.new_tensor([8, 8, 1, 1, 1]) for t in (a, b))
    a, b = a.clamp(min=a.new_tensor([-INF, -INF, 1, 1, -INF])).to(device), b.clamp(min=1).to(device)
    shift = torch.tensor([x, y, 0, 0, 0], dtype=torch.float64, device=device)
    torch.testing.assert_close(ops.box_iou_rotated(a, b), ops.box_iou_rotated(a + shift, b + shift), **TIGHT)


@given(a=boxes, b=boxes, degrees=st.floats(-360, 360))
def test_rotation_invariance(a: Any, b: Any, degrees: float, device: torch.device) -> None:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def turned(t: Tensor) -> Tensor:
        x, y = t[:, 0] * c + t[:, 1] * s, -t[:, 0] * s + t[:, 1] * c
        return torch.cat([x[:, None], y[:, None], t[:, 2:4], t[:, 4:] + degrees], dim=1).to(device)

    torch.testing.assert_close(
        ops.box_iou_rotated(a.to(device), b.to(device)), ops.box_iou_rotated(turned(a), turned(b)), **TIGHT
    )


@given(a=boxes, b=boxes)
def test_axis_aligned_boxes_equal_box_iou(a: Any, b: Any, device: torch.device) -> None:
    def straight(t: Tensor, degrees: float) -> Tensor:
        return torch.cat([t[:, :4], torch.full_like(t[:, :1], degrees)], dim=1).to(device)

    def upright(t: Tensor) -> Tensor:
        return torch.cat([t[:, :2] - t[:, 2:4] / 2, t[:, :2] + t[:, 2:4] / 2], dim=1).to(device)

    expected = ops.box_iou(upright(a), upright(b))
    torch.testing.assert_close(ops.box_iou_rotated(straight(a, 0.0), straight(b, 0.0)), expected, rtol=0, atol=1e-9)
    sideways = straight(b, 90.0)[:, [0, 1, 3, 2, 4]]
    torch.testing.assert_close(ops.box_iou_rotated(straight(a, 0.0), sideways), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("thickness", [1e-3, 1e-6])
def test_thin_boxes(thickness: float, device: torch.device) -> None:
    for degrees in (0.0, 17.3, 45.0, 90.0, 133.7):
        thin = torch.tensor([[0.0, 0.0, 1000.0, thickness, degrees]], dtype=torch.float64, device=device)
        torch.testing.assert_close(ops.box_iou_rotated(thin, thin), torch.ones_like(thin[:, :1]), **TIGHT)
        across = thin + thin.new_tensor([0, 0, 0, 0, 90.0])
        expected = thickness**2 / (2 * 1000.0 * thickness - thickness**2)
        torch.testing.assert_close(ops.box_iou_rotated(thin, across), torch.full_like(thin[:, :1], expected))


def test_far_apart_and_touching_are_zero(device: torch.device) -> None:
    a = torch.tensor([[0.0, 0, 10, 10, 30], [1e8, 1e8, 10, 10, 30]], device=device)
    b = torch.tensor([[1e6, -1e6, 10, 10, 75], [3e8, 0, 1, 1, 1]], device=device)
    assert ops.box_iou_rotated(a, b).eq(0).all()
    side_by_side = torch.tensor([[0.0, 0, 4, 2, 90], [2, 0, 4, 2, 90]], device=device)
    assert ops.box_iou_rotated(side_by_side[:1], side_by_side[1:]).item() == 0


@given(a=boxes, b=boxes, gap=st.floats(0, 1e-3), degrees=angle)
def test_separated_boxes_do_not_overlap_at_all(
    a: Any, b: Any, gap: float, degrees: float, device: torch.device
) -> None:
    """Nor do touching ones, and what overlaps does so seen from either."""
    iou = ops.box_iou_rotated(a.to(device), b.to(device))
    assert torch.equal(iou > 0, ops.box_iou_rotated(b.to(device), a.to(device)).T > 0)
    # b beyond the right side of a in a's own frame, flush with it or turned by a half circle, at a gap
    c, s = torch.deg2rad(a[:1, 4]).cos(), torch.deg2rad(a[:1, 4]).sin()
    for turn in (0.0, 180.0, degrees):
        beside, theta = b.clone(), math.radians(turn)
        reach = (b[:, 2] * abs(math.cos(theta)) + b[:, 3] * abs(math.sin(theta))) / 2
        along, across = a[0, 2] / 2 + reach + gap, b[:, 1] / 8
        beside[:, 0], beside[:, 1] = along * c + across * s, across * c - along * s
        beside[:, 4] = a[0, 4] + turn
        origin = a[:1] * a.new_tensor([0, 0, 1, 1, 1])
        for p, q in ((origin, beside), (beside, origin)):
            assert not ops.box_iou_rotated(p.to(device), q.to(device)).any()


def test_a_disjoint_pair_whose_area_rounds_above_nothing(device: torch.device) -> None:
    pair = torch.tensor([[0.0, 0, 7, 6, 15], [6, 6, 8, 5, 0]], device=device)
    for op in (ops.box_iou_rotated, ops.box_iou_rotated.reference):
        assert torch.equal(op(pair, pair) > 0, torch.eye(2, dtype=torch.bool, device=device))
    assert ops.nms_rotated(pair, torch.tensor([0.9, 0.8], device=device), 0.0).tolist() == [0, 1]
    # corners that overlap by less than rounding can measure still do, seen from either
    for depth in (1e-3, 1e-9, 1e-12):
        corner = torch.tensor([[0.0, 0, 2, 2, 0], [2 - depth, 2 - depth, 2, 2, 0]], dtype=torch.float64, device=device)
        assert (ops.box_iou_rotated(corner, corner) > 0).all()


def test_boxes_that_are_not_solid_or_not_finite(device: torch.device) -> None:
    good = [5.0, 5, 4, 4, 20]
    flat = torch.tensor([good, [5, 5, 0, 4, 20], [5, 5, 4, -4, 20], [5, 5, 0, 0, 0]], device=device)
    expected = torch.zeros(4, 4, device=device)
    expected[0, 0] = 1
    assert torch.equal(ops.box_iou_rotated(flat, flat), expected)
    bad = torch.tensor([[NAN, 5, 4, 4, 20], [5, INF, 4, 4, 20], [5, 5, INF, 4, 20], [5, 5, 4, 4, NAN]], device=device)
    assert ops.box_iou_rotated(bad, flat[:1]).isnan().all() and ops.box_iou_rotated(flat[:1], bad).isnan().all()


def test_errors(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"box_iou_rotated: expected boxes1 of shape \[N, 5\], got \[2, 4\]"):
        ops.box_iou_rotated(torch.zeros(2, 4, device=device), torch.zeros(2, 5, device=device))
