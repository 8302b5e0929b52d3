"""nms_rotated: properties, agreement with nms at right angles, classes, and scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastvision import ops
from fastvision.testing import data

NAN, INF = float("nan"), float("inf")
coordinate = st.integers(-20, 20).map(float)
side = st.sampled_from([0.0, 1e-3, 1.0, 2.0, 5.0, 8.0, 40.0])
angle = st.integers(-24, 24).map(lambda k: k * 15.0)
rows = st.lists(st.tuples(coordinate, coordinate, side, side, angle), min_size=1, max_size=30)
thresholds = st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.62, 0.9])


def made(boxes: list[Any], device: torch.device, repeats: int = 1) -> tuple[Tensor, Tensor]:
    return torch.tensor(boxes, device=device).repeat(repeats, 1), data.scores(len(boxes) * repeats).to(device)


@given(boxes=rows, threshold=thresholds)
def test_equals_the_reference(boxes: list[Any], threshold: float, device: torch.device) -> None:
    some, scores = made(boxes, device, 3)
    ids = torch.arange(len(some), device=device) % 2
    for kwargs in ({}, {"idxs": ids}, {"clockwise": True}):
        kept = ops.nms_rotated(some, scores, threshold, **kwargs)
        assert torch.equal(kept, ops.nms_rotated.reference(some, scores, threshold, **kwargs))


@given(boxes=rows, threshold=thresholds)
def test_no_kept_box_overlaps_another_and_every_dropped_one_does(
    boxes: list[Any], threshold: float, device: torch.device
) -> None:
    some, scores = made(boxes, device)
    kept = ops.nms_rotated(some, scores, threshold)
    iou = ops.box_iou_rotated(some.double(), some.double())
    assert not (iou[kept][:, kept].triu(1) > threshold).any()
    dropped = [i for i in range(len(some)) if i not in set(kept.tolist())]
    for i in dropped:
        better = kept[scores[kept] > scores[i]]
        assert (iou[better, i] > threshold).any()


@given(boxes=rows, threshold=st.sampled_from([0.33, 0.57, 0.81]), shift=st.sampled_from([2.0**12, -(2.0**20), 2.0**30]))
def test_shifts_change_nothing(boxes: list[Any], threshold: float, shift: float, device: torch.device) -> None:
    some, scores = made(boxes, device)
    moved = some.double()
    moved[:, :2] += shift
    assert torch.equal(ops.nms_rotated(moved, scores, threshold), ops.nms_rotated(some.double(), scores, threshold))


@given(boxes=rows, threshold=st.sampled_from([0.33, 0.57, 0.81]), quarters=st.integers(-5, 5))
def test_quarter_turns_change_nothing(boxes: list[Any], threshold: float, quarters: int, device: torch.device) -> None:
    some, scores = made(boxes, device)
    turned = some.double()
    for _ in range(quarters % 4):  # counter-clockwise with y pointing down: (x, y) -> (y, -x)
        turned = torch.stack([turned[:, 1], -turned[:, 0], turned[:, 2], turned[:, 3], turned[:, 4] + 90], 1)
    assert torch.equal(ops.nms_rotated(turned, scores, threshold), ops.nms_rotated(some.double(), scores, threshold))


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.5, 0.7])
def test_upright_boxes_are_those_of_nms(threshold: float, device: torch.device) -> None:
    boxes, scores = data.random_boxes(2000, 500.0, 60.0).round().to(device), data.scores(2000).to(device)
    rotated = torch.cat([ops.box_convert(boxes, "xyxy", "cxcywh"), torch.zeros(2000, 1, device=device)], 1)
    expected = ops.nms(boxes.double(), scores, threshold)
    assert torch.equal(ops.nms_rotated(rotated, scores, threshold), expected)
    rotated[:, 4] = -180
    assert torch.equal(ops.nms_rotated(rotated, scores, threshold), expected)


def test_identical_boxes_leave_one(device: torch.device) -> None:
    boxes = torch.tensor([[1e6, -1e6, 30.0, 1e-2, 37.0]], device=device).repeat(500, 1)
    assert ops.nms_rotated(boxes, torch.ones(500, device=device), 0.999).tolist() == [0]


def test_thin_crossing_boxes_are_all_kept(device: torch.device) -> None:
    """A star of needles through one point: their circles coincide, their overlaps are nearly nothing."""
    angles = torch.arange(0, 180, 5.0, device=device)
    boxes = torch.stack([torch.full_like(angles, v) for v in (50.0, 50.0, 100.0, 0.01)] + [angles], 1)
    assert ops.nms_rotated(boxes, data.scores(36).to(device), 0.1).numel() == 36


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.5])
def test_boxes_that_are_not_finite_are_inert(bad: float, threshold: float, device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9, bad], [0, bad, 9, 9, 0], [0, 0, 9, 9, 0], [0, 0, 9, 8, 0]], device=device)
    assert ops.nms_rotated(boxes, torch.tensor([4.0, 3, 2, 1], device=device), threshold).tolist() == [0, 1, 2]


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_sizes_from_a_thousandth_to_a_thousand(threshold: float, device: torch.device) -> None:
    g = data.generator(3)
    count = 800
    boxes = torch.rand(count, 5, generator=g) * torch.tensor([1000.0, 1000, 0, 0, 360])
    boxes[:, 2:4] = 10 ** (torch.rand(count, 2, generator=g) * 6 - 3)
    boxes = torch.cat([boxes, boxes + torch.tensor([0.0, 0, 0, 0, 4.0])]).to(device)
    scores = data.scores(len(boxes)).to(device)
    kept = ops.nms_rotated(boxes, scores, threshold)
    assert torch.equal(kept, ops.nms_rotated.reference(boxes, scores, threshold))


def test_bad_arguments(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"boxes\d? of shape \[N, 5\]|shape"):
        ops.nms_rotated(torch.zeros(3, 4, device=device), torch.zeros(3, device=device), 0.5)
    with pytest.raises(ValueError, match="real dtype"):
        ids = torch.zeros(3, dtype=torch.complex64, device=device)
        ops.nms_rotated(torch.zeros(3, 5, device=device), torch.zeros(3, device=device), 0.5, idxs=ids)
