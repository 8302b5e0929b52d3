"""match_boxes against torchvision's Matcher, index by index, and at the edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from data_requirements import street_photo
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastvision import ops
from fastvision.testing import data

# integer coordinates, so that equal overlaps are common
corner = st.integers(0, 12)
side = st.integers(1, 8)
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
boxes = st.lists(box, min_size=1, max_size=40).map(lambda rows: torch.tensor(rows, dtype=torch.float32))
NAN, INF = float("nan"), float("inf")


def matcher(*args: Any) -> Any:
    theirs = pytest.importorskip("torchvision").ops
    detection = pytest.importorskip("torchvision.models.detection._utils")
    return lambda gt, anchors: detection.Matcher(*args)(theirs.box_iou(gt, anchors))


def pyramid_anchors(height: int = 200, width: int = 336) -> Tensor:
    """Three shapes at every fourth pixel of an image, row by row, as a network's first level has them."""
    y, x = torch.meshgrid(torch.arange(0, height, 4.0), torch.arange(0, width, 4.0), indexing="ij")
    centre = torch.stack([x, y], dim=-1)[:, :, None]
    half = torch.tensor([[16.0, 16.0], [23.0, 11.0], [11.0, 23.0]])
    return torch.cat([centre - half, centre + half], dim=-1).reshape(-1, 4)


@given(gt=boxes, anchors=boxes, low_quality=st.booleans(), high=st.sampled_from([0.3, 0.5, 0.7]))
def test_every_index_equals_torchvision(
    gt: Tensor, anchors: Tensor, low_quality: bool, high: float, device: torch.device
) -> None:
    gt, anchors = gt.to(device), anchors.to(device)
    ours = ops.match_boxes(gt, anchors, high, 0.3, low_quality)
    assert torch.equal(ours, matcher(high, 0.3, low_quality)(gt, anchors))


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchors_of_an_image_equal_torchvision(low_quality: bool, dtype: torch.dtype, device: torch.device) -> None:
    anchors = pyramid_anchors().to(device, dtype)
    gt = data.random_boxes(30, 190.0, 60.0).to(device, dtype)
    gt = torch.cat([gt, gt[:2], gt.new_tensor([[900.0, 900, 950, 950]])])  # duplicates, and one that meets no anchor
    for count in (len(gt), len(gt) - 1):
        ours = ops.match_boxes(gt[:count], anchors, 0.7, 0.3, low_quality)
        assert torch.equal(ours, matcher(0.7, 0.3, low_quality)(gt[:count], anchors))


@pytest.mark.parametrize("low_quality", [False, True])
def test_objects_of_a_street_photo_equal_torchvision(low_quality: bool, device: torch.device) -> None:
    boxes, _ = street_photo()
    anchors = torch.cat([pyramid_anchors(375, 500) * scale for scale in (1, 2, 4, 8)])
    gt, anchors = boxes.to(device), anchors.to(device)
    ours = ops.match_boxes(gt, anchors, 0.7, 0.3, low_quality)
    assert torch.equal(ours, matcher(0.7, 0.3, low_quality)(gt, anchors))
    if low_quality:  # every object has an anchor of its own, unless another object overlaps that one more
        best = ops.box_iou(gt, anchors).max(dim=1)[1]
        assert (ours[best] >= 0).all() and len(ours[ours >= 0].unique()) >= len(gt) - 2


def test_nothing_to_match(device: torch.device) -> None:
    anchors, none = data.random_boxes(5).to(device), torch.zeros(0, 4, device=device)
    assert ops.match_boxes(none, anchors, 0.5, 0.4, True).tolist() == [-1] * 5
    assert ops.match_boxes(anchors, none, 0.5, 0.4, True).shape == (0,)


def test_nan_infinite_and_empty_boxes_match_nothing(device: torch.device) -> None:
    good = [0.0, 0, 10, 10]
    bad = [[NAN, 0, 5, 5], [0, 0, INF, 10], [3, 3, 3, 3], [9, 9, 1, 1]]
    rows = torch.tensor([good, *bad], device=device)
    for low_quality in (False, True):
        assert ops.match_boxes(rows[:1], rows, 0.5, 0.4, low_quality).tolist() == [0, -1, -1, -1, -1]
    assert ops.match_boxes(rows[1:], rows[:1], 0.5, 0.4).tolist() == [-1]
    assert ops.match_boxes(rows.flip(0), rows[:1], 0.5, 0.4, True).tolist() == [4]


odd = st.sampled_from([NAN, INF, -INF])
odd_box = st.tuples(*[st.integers(0, 12).map(float) | odd] * 4)
odd_boxes = st.lists(box | odd_box, min_size=1, max_size=12).map(lambda rows: torch.tensor(rows, dtype=torch.float32))


@given(gt=odd_boxes, anchors=odd_boxes, low_quality=st.booleans(), low=st.sampled_from([0.0, 0.3]))
def test_numbers_that_are_not_finite_anywhere(
    gt: Tensor, anchors: Tensor, low_quality: bool, low: float, device: torch.device
) -> None:
    args: Any = gt.to(device), anchors.to(device), 0.5, low, low_quality
    assert torch.equal(ops.match_boxes(*args), ops.match_boxes.reference(*args))
    args = gt.to(device), anchors.to(device), 0.0, 0.0, low_quality
    assert torch.equal(ops.match_boxes(*args), ops.match_boxes.reference(*args))


def test_a_nan_ground_truth_is_passed_over(device: torch.device) -> None:
    gt = torch.tensor([[NAN, 0, 5, 5], [100, 100, 110, 110]], device=device)
    anchors = torch.tensor([[0.0, 0, 5, 5], [7, 7, 9, 9]], device=device)
    assert ops.match_boxes(gt, anchors, 0.5, 0.3, True).tolist() == [1, 1]


def test_threads_do_not_matter(device: torch.device) -> None:
    gt, anchors = data.random_boxes(50, 300.0, 60.0).to(device), data.random_boxes(5000, 300.0, 60.0, 1).to(device)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(ops.match_boxes(gt, anchors, 0.5, 0.4, True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_errors(device: torch.device) -> None:
    rows = data.random_boxes(3).to(device)
    with pytest.raises(ValueError, match=r"match_boxes: expected low_threshold <= high_threshold, got 0.5 and 0.4"):
        ops.match_boxes(rows, rows, 0.4, 0.5)
    with pytest.raises(ValueError, match=r"match_boxes: expected gt_boxes of shape \[N, 4\], got \[3, 3\]"):
        ops.match_boxes(rows[:, :3], rows, 0.5, 0.4)
    with pytest.raises(ValueError, match=r"match_boxes: expected anchors of shape"):
        ops.match_boxes(rows, rows[0], 0.5, 0.4)
