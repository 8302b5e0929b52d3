"""One-call post-processing at the edges: maps that do not fit together, saturated scores, odd numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastvision
from fastvision import _library, ops, reference
from fastvision.testing import data

NAN, INF = float("nan"), float("inf")
CELL = torch.tensor([[-4.0, -4, 4, 4]])


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("scores", "deltas", "anchors", "text"),
    [
        ([zeros(1, 1, 200, 200)], [zeros(1, 4, 1, 1)], [CELL], r"deltas of level 0 of shape \[1, 4, 200, 200\]"),
        ([zeros(1, 1, 4, 4)], [zeros(1, 4, 2, 2)], [CELL], r"deltas of level 0 of shape \[1, 4, 4, 4\]"),
        ([zeros(1, 3, 2, 2)], [zeros(1, 4, 2, 2)], [CELL], r"scores of level 0 of shape \[1, 1 x 1, H, W\]"),
        ([zeros(2, 1, 2, 2)], [zeros(2, 4, 2, 2)], [CELL], r"scores of level 0 of shape \[1, 1 x 1, H, W\]"),
        ([zeros(1, 1, 2)], [zeros(1, 4, 2, 2)], [CELL], r"scores of level 0 of shape .* got \[1, 1, 2\]"),
        ([zeros(1, 1, 2, 2)], [], [CELL], "deltas of each of 1 levels, got 0"),
        ([zeros(1, 1, 2, 2)], [zeros(1, 4, 2, 2)], [CELL] * 2, "cell anchors of each of 1 levels, got 2"),
        ([], [], [], "at least one level"),
    ],
)
def test_rpn_maps_that_do_not_fit(
    scores: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], text: str, device: torch.device
) -> None:
    scores, deltas, anchors = ([t.to(device) for t in levels] for levels in (scores, deltas, anchors))
    for op in (ops.rpn_proposals, ops.rpn_proposals.reference):
        with pytest.raises(ValueError, match=f"rpn_proposals: expected {text}"):
            op(scores, deltas, anchors, [(8, 8)], [(32, 32)])


@pytest.mark.parametrize(("channels", "anchors"), [(3, 0), (7, 2)])
def test_retinanet_classes_that_do_not_divide(channels: int, anchors: int, device: torch.device) -> None:
    args = [zeros(1, channels, 2, 2).to(device)], [zeros(1, 4 * anchors, 2, 2).to(device)]
    for op in (ops.retinanet_detections, ops.retinanet_detections.reference):
        with pytest.raises(ValueError, match=r"retinanet_detections: expected scores of level 0 of shape"):
            op(*args, [CELL.expand(anchors, 4).to(device)], [(8, 8)], [(32, 32)])


def test_ssd_anchors_that_do_not_fit(device: torch.device) -> None:
    args = [zeros(1, 6, 2, 2).to(device)], [zeros(1, 8, 2, 2).to(device)]
    for op in (ops.ssd_detections, ops.ssd_detections.reference):
        with pytest.raises(ValueError, match=r"ssd_detections: expected anchors of shape \[8, 4\], got \[7, 4\]"):
            op(*args, zeros(7, 4).to(device), [(32, 32)], num_classes=3)
        with pytest.raises(ValueError, match=r"ssd_detections: expected scores of level 0"):
            op(*args, zeros(8, 4).to(device), [(32, 32)], num_classes=4)


@pytest.mark.skipif(not _library.LOADED, reason="no kernel without the compiled library")
@pytest.mark.parametrize("index", [4, 10**9, 2**62])
def test_a_candidate_that_is_none(index: int, device: torch.device) -> None:
    """The CPU raises; CUDA, which would have to wait for the device, writes zeros."""
    indices = torch.tensor([[[0, index]]], device=device)
    args: Any = [zeros(1, 4, 2, 2).to(device)], [CELL.to(device)], [8, 8], indices, 1, [32, 32], [1.0] * 4, 4.0
    if device.type == "cpu" and fastvision.BACKEND == "native":
        with pytest.raises(IndexError, match=rf"decode_candidates: expected indices of level 0 below 4, got {index}"):
            torch.ops.fastvision.decode_candidates(*args)
    else:
        boxes = torch.ops.fastvision.decode_candidates(*args)
        assert boxes.tolist() == [[[[0, 0, 4, 4], [0, 0, 0, 0]]]]


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (15.6, 16.6, torch.float32),
        (16.0, 18.0, torch.float32),
        (16.7, 20.0, torch.float32),
        (15.6, 17.5, torch.float32),
        (12.0, 13.0, torch.float32),
        (1.99999, 2.00001, torch.float32),
        (14.0, 20.0, torch.float16),
        (10.0, 20.0, torch.bfloat16),
        (35.0, 36.7, torch.float64),
        (36.0, 39.0, torch.float64),
    ],
)
def test_equal_probabilities_rank_by_index(low: float, high: float, dtype: torch.dtype, device: torch.device) -> None:
    """A sigmoid near 1 is one number for many logits; which of them are taken is decided by index alone."""
    g = data.generator(11)
    logits = (low + torch.rand(2, 3, 40, 30, generator=g, dtype=torch.float64) * (high - low)).to(device, dtype)
    deltas, sizes = torch.zeros(2, 4, 40, 30, dtype=dtype, device=device), [(1000, 1000)] * 2
    anchors = [CELL.to(device)]
    for top_k in (7, 100, 900):
        kwargs: Any = {"top_k": top_k, "detections_per_image": 50, "nms_threshold": 0.95}
        args = [logits], [deltas], anchors, [(8, 8)], sizes
        found, wanted = ops.retinanet_detections(*args, **kwargs), ops.retinanet_detections.reference(*args, **kwargs)
        for a, b in zip(found, wanted, strict=True):
            assert all(torch.equal(a[part], b[part]) for part in b)


@pytest.mark.parametrize("period", [1, 2, 31, 32, 33, 160])
@pytest.mark.parametrize("sigmoid", [False, True])
def test_large_scores_at_even_distances(period: int, sigmoid: bool, device: torch.device) -> None:
    """Every sample of a map may mislead: all of its large scores, or none."""
    if not _library.LOADED:
        pytest.skip("no kernel without the compiled library")
    scores = torch.randn(1, 1, 100, 160, generator=data.generator(5)).to(device)
    scores.flatten()[::period] += 8
    rows = torch.sigmoid(scores.flatten().double()).float() if sigmoid else scores.flatten()
    order = reference.nms.rank(rows)
    for k in (1, 40, 600):
        for threshold in (-float("inf"), 7.5):
            indices, _ = torch.ops.fastvision.top_candidates([scores], 0, k, threshold, sigmoid, True)
            wanted = order[scores.flatten()[order] >= threshold][:k]
            assert (indices[0, 0, len(wanted) :] == -1).all()
            if sigmoid:  # neighbours by one rounding may stand for one another
                torch.testing.assert_close(rows[indices[0, 0, : len(wanted)]], rows[wanted], rtol=0, atol=2.0**-23)
            else:
                assert torch.equal(indices[0, 0, : len(wanted)], wanted)


def test_no_score_is_above_nan(device: torch.device) -> None:
    maps, deltas = torch.randn(1, 3, 40, 40, device=device), torch.zeros(1, 4, 40, 40, device=device)
    anchors = CELL.to(device).expand(1600, -1)
    kwargs: Any = {"num_classes": 3, "score_threshold": NAN, "top_k": 10}
    (found,) = ops.ssd_detections([maps], [deltas], anchors, [(99, 99)], **kwargs)
    assert len(found["scores"]) == 0


@pytest.mark.parametrize("pair", [(10.0, 10.0005), (16.0, 16.5), (17.0, 20.0), (-3.0, 2.0), (2.0, 2.0)])
def test_yolo_label_is_the_first_of_equal_probabilities(pair: tuple[float, float], device: torch.device) -> None:
    output = torch.full((1, 4 * 2 + 3, 3, 3), -9.0, device=device)
    output[0, -2, 1, 1], output[0, -1, 1, 1] = pair
    found, wanted = (
        op([output], [(24, 24)], num_classes=3, strides=[8])[0]
        for op in (ops.yolo_detections, ops.yolo_detections.reference)
    )
    assert found["labels"].tolist() == wanted["labels"].tolist() and torch.equal(found["scores"], wanted["scores"])


@pytest.mark.parametrize("threshold", [0.0, 1e-12, 0.999999, 0.99999994, 1.0, 2.0, -1.0])
def test_thresholds_at_the_ends(threshold: float, device: torch.device) -> None:
    logits = torch.linspace(-20, 20, 1600, device=device).reshape(1, 1, 40, 40)
    args = [logits], [torch.zeros(1, 4, 40, 40, device=device)], [CELL.to(device)], [(16, 16)], [(999, 999)]
    found, wanted = (
        op(*args, score_threshold=threshold, top_k=2000)[0]
        for op in (ops.retinanet_detections, ops.retinanet_detections.reference)
    )
    assert torch.equal(found["boxes"], wanted["boxes"]) and torch.equal(found["scores"], wanted["scores"])


def test_negative_scores_of_a_grid(device: torch.device) -> None:
    output = torch.zeros(1, 2, 2, 5 + 1, device=device)
    output[..., 2:4], output[..., 5] = 0.5, 1.0
    output[0, :, :, 4] = torch.tensor([[0.5, -0.8], [-0.2, -3.0]], device=device)
    (found,) = ops.yolo_detections(output, [(64, 64)], num_classes=1, score_threshold=-1.0)
    torch.testing.assert_close(found["scores"].cpu(), torch.tensor([0.5, -0.2, -0.8]))


def test_padding_is_zero_whatever_the_boxes_are(device: torch.device) -> None:
    logits = torch.full((1, 1, 2, 2), -9.0, device=device)
    deltas = torch.full((1, 4, 2, 2), NAN, device=device)
    args = [logits], [deltas], [CELL.to(device)], [(8, 8)], [(32, 32)]
    kept, scores, labels, counts = ops.retinanet_detections(*args, padded=True, detections_per_image=3)
    assert counts.tolist() == [0] and not kept.any() and not scores.any() and not labels.any()
    kept, scores, counts = ops.rpn_proposals(*args, padded=True, post_nms_top_n=3)
    assert counts.tolist() == [0] and not kept.any() and not scores.any()
    grid = torch.full((1, 1, 1, 6), NAN, device=device)
    kept, scores, _, counts = ops.yolo_detections(grid, [(9, 9)], num_classes=1, padded=True, detections_per_image=2)
    assert counts.tolist() == [0] and not kept.any() and not scores.any()
