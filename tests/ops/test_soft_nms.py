"""soft_nms against the published loop, worked by hand and at the edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastvision import ops
from fastvision.testing import data

NAN, INF = float("nan"), float("inf")
# IoU of the first two is 1/3, of the others with anything 0
THREE = [[0.0, 0, 10, 10], [0, 5, 10, 15], [50, 50, 60, 60]]


@pytest.mark.parametrize(
    ("method", "factor"), [("gaussian", math.exp(-(1 / 9) / 0.5)), ("linear", 2 / 3), ("hard", 0.0)]
)
def test_worked_example(method: str, factor: float, device: torch.device) -> None:
    scores = torch.tensor([0.9, 0.8, 0.7], dtype=torch.float64, device=device)
    keep, rescored = ops.soft_nms(torch.tensor(THREE, device=device), scores, method=method)
    expected = {0: 0.9, 2: 0.7}
    if factor:
        expected[1] = 0.8 * factor
    assert keep.tolist() == sorted(expected, key=lambda i: -expected[i])
    torch.testing.assert_close(rescored.cpu(), torch.tensor([expected[i] for i in keep.tolist()], dtype=torch.float64))


def test_hard_is_nms(device: torch.device) -> None:
    boxes, scores = data.clustered_boxes(3000, 50, 400.0).to(device), data.scores(3000).to(device)
    ids = torch.randint(4, (3000,), generator=data.generator(1)).to(device)
    for threshold in (0.3, 0.7):
        keep, rescored = ops.soft_nms(boxes, scores, threshold, method="hard", score_threshold=0.0)
        assert torch.equal(keep, ops.nms(boxes, scores, threshold))
        assert torch.equal(rescored, scores[keep])
        keep, _ = ops.soft_nms(boxes, scores, threshold, method="hard", score_threshold=0.0, idxs=ids)
        assert torch.equal(keep, ops.batched_nms(boxes, scores, ids, threshold))


coordinate = st.integers(0, 12).map(float) | st.sampled_from([NAN, INF])
score = st.integers(0, 8).map(lambda k: k / 8) | st.sampled_from([NAN])


@given(
    rows=st.lists(st.tuples(*[coordinate] * 4, score), max_size=30),
    method=st.sampled_from(["gaussian", "linear", "hard"]),
    threshold=st.sampled_from([-1.0, 0.0, 0.3]),
)
def test_equals_the_published_loop(rows: list[Any], method: str, threshold: float, device: torch.device) -> None:
    table = torch.tensor(rows, dtype=torch.float64, device=device).reshape(-1, 5)
    options: Any = {"method": method, "idxs": torch.arange(len(rows), device=device) % 2}
    keep, rescored = ops.soft_nms(table[:, :4], table[:, 4], threshold, **options)
    _, expected = ops.soft_nms.reference(table[:, :4], table[:, 4], threshold, **options)
    # two factors may differ in the last place and swap boxes of nearly equal scores: compare what was scored
    torch.testing.assert_close(rescored, expected)
    assert len(set(keep.tolist())) == len(keep) and (rescored.diff() <= 0).all()


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_many_boxes_far_and_near(method: str, device: torch.device) -> None:
    """Enough boxes for blocks of neighbours, on a photo much wider than it is high."""
    boxes = data.random_boxes(700, 1000.0, 80.0) * torch.tensor([3.0, 0.1, 3.0, 0.1])
    boxes, scores = boxes.to(device), data.scores(700).to(device)
    keep, rescored = ops.soft_nms(boxes.double(), scores.double(), 0.2, method=method, sigma=0.4)
    expected_keep, expected = ops.soft_nms.reference(boxes.double(), scores.double(), 0.2, method=method, sigma=0.4)
    assert torch.equal(keep, expected_keep)
    torch.testing.assert_close(rescored, expected)


def test_equal_scores_go_by_index(device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]], device=device).repeat(200, 1)
    keep, rescored = ops.soft_nms(boxes, torch.ones(200, device=device), method="gaussian", score_threshold=1e-3)
    assert keep.tolist() == list(range(len(keep)))
    expected = [math.exp(-k / 0.5) for k in range(len(keep))]
    torch.testing.assert_close(rescored.cpu(), torch.tensor(expected))
    assert expected[-1] > 1e-3 > expected[-1] * math.exp(-2)


def test_same_result_for_every_thread_count(device: torch.device) -> None:
    boxes, scores = data.clustered_boxes(3000, 50, 400.0).to(device), data.scores(3000).to(device)
    ids = torch.randint(9, (3000,), generator=data.generator(1)).to(device)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(ops.soft_nms(boxes, scores, idxs=ids))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "soft"}, "expected method"),
        ({"sigma": 0.0}, "sigma > 0"),
        ({"score_threshold": -1.0}, "score_threshold >= 0"),
    ],
)
def test_bad_arguments(options: Any, text: str, device: torch.device) -> None:
    for op in (ops.soft_nms, ops.soft_nms.reference):
        with pytest.raises(ValueError, match=text):
            op(torch.zeros(1, 4, device=device), torch.zeros(1, device=device), **options)
