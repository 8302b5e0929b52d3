"""nms and batched_nms at the edges, and against torchvision where it is installed."""

from __future__ import annotations

import resource
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing import data

NAN, INF = float("nan"), float("inf")
CLUSTER = [[0.0, 0, 10, 10], [1, 1, 11, 11], [100, 100, 110, 110], [0, 1, 10, 11]]


def indices(*boxes_and_scores: Any, device: torch.device, threshold: float = 0.5, **kwargs: Any) -> list[int]:
    boxes, scores = (torch.tensor(v, device=device) for v in boxes_and_scores)
    return ops.nms(boxes, scores, threshold, **kwargs).tolist()


def test_no_boxes(device: torch.device) -> None:
    kept = ops.nms(torch.zeros(0, 4, device=device), torch.zeros(0, device=device), 0.5)
    assert kept.shape == (0,) and kept.dtype == torch.int64 and kept.device.type == device.type


def test_nan_score_ranks_last_and_suppresses_nothing(device: torch.device) -> None:
    assert indices(CLUSTER, [NAN, 0.2, 0.1, -INF], device=device) == [1, 2]
    assert indices([[0.0, 0, 10, 10], [50, 50, 60, 60]], [NAN, -INF], device=device) == [1, 0]


def test_negative_zero_ties_with_zero(device: torch.device) -> None:
    far = [[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]]
    assert indices(far, [-0.0, 0.0, -0.0], device=device) == [0, 1, 2]


@pytest.mark.parametrize("count", [3, 500])
def test_equal_scores_keep_their_order(count: int, device: torch.device) -> None:
    corner = torch.arange(count, device=device).float()[:, None] * 20
    boxes = torch.cat([corner, corner, corner + 10, corner + 10], 1)
    assert ops.nms(boxes, torch.ones(count, device=device), 0.5).tolist() == list(range(count))


@pytest.mark.parametrize("spread", ["uniform", "next to one another", "tied in part", "far apart", "NaN among them"])
@pytest.mark.parametrize("count", [450, 5000])
def test_ranks_are_those_of_a_stable_sort(count: int, spread: str, device: torch.device) -> None:
    g = data.generator(11)
    scores = torch.rand(count, generator=g)
    if spread == "next to one another":  # one score apart from the others: they differ in the last bits alone
        scores = 1 + torch.randint(500, (count,), generator=g) * torch.finfo(torch.float32).eps
        scores[count // 2] = 1e-30
    elif spread == "tied in part":
        scores = scores.clamp(0.3, 0.7)
    elif spread == "far apart":
        scores = (scores - 0.5) * torch.exp2(torch.randint(-120, 120, (count,), generator=g).float())
    elif spread == "NaN among them":
        scores[::7] = NAN
    boxes = torch.zeros(count, 4, device=device)  # empty: none suppresses another
    expected = torch.sort(scores.nan_to_num(-INF), descending=True, stable=True).indices
    assert torch.equal(ops.nms(boxes, scores.to(device), 0.5).cpu(), expected)


def test_zero_area_duplicates_are_both_kept(device: torch.device) -> None:
    assert indices([[3.0, 3, 3, 3], [3, 3, 3, 3]], [0.5, 0.6], device=device, threshold=0.0) == [1, 0]


def test_inverted_boxes_are_all_kept(device: torch.device) -> None:
    assert indices([[10.0, 10, 0, 0], [10, 10, 0, 0], [9, 9, 1, 1]], [3.0, 2, 1], device=device) == [0, 1, 2]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("copies", [1, 400])
def test_nan_and_infinite_boxes_are_inert(bad: float, copies: int, device: torch.device) -> None:
    boxes = torch.tensor(CLUSTER[:2] * copies + [[0.0, 0, bad, 10], [bad, 0, 10, 10], [0, bad, 10, bad]], device=device)
    scores = torch.linspace(0.1, 1, len(boxes), device=device)  # the bad ones first
    kept = ops.nms(boxes, scores, 0.5).tolist()
    n = len(boxes)
    assert kept == [n - 1, n - 2, n - 3, n - 4]


def test_one_infinite_box_affects_itself_only(device: torch.device) -> None:
    boxes, scores = data.random_boxes(300, 200.0, 50.0).to(device), data.scores(300).to(device)
    ids = torch.randint(3, (300,), generator=data.generator(1)).to(device)
    expected = ops.batched_nms(boxes, scores, ids, 0.5)
    more = torch.cat([boxes, torch.tensor([[0.0, 0, INF, INF]], device=device)])
    kept = ops.batched_nms(more, torch.cat([scores, scores.new_tensor([2.0])]), torch.cat([ids, ids[:1]]), 0.5)
    assert kept[0] == 300 and torch.equal(kept[1:], expected)


def test_classes_never_meet_at_negative_coordinates(device: torch.device) -> None:
    boxes = torch.tensor([[-10.0, -10, 0, 0], [-21, -21, -11, -11], [-10, -10, 0, 0]], device=device)
    kept = ops.batched_nms(boxes, torch.tensor([3.0, 2, 1], device=device), torch.tensor([0, 1, 1], device=device), 0.1)
    assert kept.tolist() == [0, 1, 2]


def test_large_class_ids_keep_small_boxes_apart(device: torch.device) -> None:
    boxes = (data.random_boxes(2000, 5.0, 0.05) % 5).to(device)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + 0.03], 1)
    scores = data.scores(2000).to(device)
    ids = torch.randint(3, (2000,), generator=data.generator(2)).to(device)
    assert torch.equal(ops.batched_nms(boxes, scores, ids, 0.3), ops.batched_nms(boxes, scores, ids + 10**9, 0.3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overlap_equal_to_the_threshold_does_not_suppress(dtype: torch.dtype, device: torch.device) -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5]], dtype=dtype, device=device)  # IoU 1/2 exactly
    scores = torch.tensor([1.0, 0.5], device=device)
    assert ops.nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.5 - 1e-6).tolist() == [0]
    third = torch.tensor([[0, 0, 3, 1], [0, 0, 1, 1]], dtype=dtype, device=device)
    assert ops.nms(third, scores, float(torch.tensor(1.0, dtype=dtype) / 3)).tolist() == [0, 1]


def test_negative_threshold(device: torch.device) -> None:
    """Boxes that do not meet have IoU 0, which is above it; so do two empty ones."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [3, 3, 3, 3], [3, 3, 3, 3]], device=device)
    scores = torch.tensor([0.1, 0.2, 0.4, 0.3], device=device)
    for op in (ops.nms, ops.nms.reference):
        assert op(boxes, scores, -0.5).tolist() == [2]


def test_integer_boxes_and_half_scores(device: torch.device) -> None:
    boxes, scores = data.random_boxes(200, 200.0, 50.0).round().to(device), data.scores(200).to(device)
    expected = ops.nms(boxes, scores, 0.5)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.uint16, torch.uint8):
        assert torch.equal(ops.nms(boxes.to(dtype), scores, 0.5), expected)
    half = scores.half()
    assert torch.equal(ops.nms(boxes, half, 0.5), ops.nms(boxes, half.float(), 0.5))


def test_boxes_that_require_grad(device: torch.device) -> None:
    boxes = torch.tensor(CLUSTER, device=device, requires_grad=True)
    assert not ops.nms(boxes, torch.ones(4, device=device, requires_grad=True), 0.5).requires_grad


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.zeros(3, 5), torch.zeros(3), 0.5), r"nms: expected boxes of shape \[N, 4\], got \[3, 5\]"),
        ((torch.zeros(4), torch.zeros(4), 0.5), r"nms: expected boxes of shape \[N, 4\], got \[4\]"),
        ((torch.zeros(3, 4), torch.zeros(2), 0.5), r"nms: expected scores of shape \[3\]"),
        ((torch.zeros(3, 4), torch.zeros(3).long(), 0.5), "nms: expected scores of dtype"),
        ((torch.zeros(3, 4), torch.zeros(3), NAN), "nms: expected a number for iou_threshold"),
        ((torch.zeros(3, 4, dtype=torch.complex64), torch.zeros(3), 0.5), "nms: expected boxes of a real dtype"),
    ],
)
def test_bad_arguments(args: tuple[Any, ...], message: str, device: torch.device) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ops.nms(*(a.to(device) if isinstance(a, Tensor) else a for a in args))
    assert "/" not in str(caught.value), "no path of the build may show"


def test_bad_keywords(device: torch.device) -> None:
    boxes, scores = torch.zeros(1, 4, device=device), torch.zeros(1, device=device)
    with pytest.raises(ValueError, match='expected metric "iou", "diou" or "ios", got "giou"'):
        ops.nms(boxes, scores, 0.5, metric="giou")
    with pytest.raises(ValueError, match="max_output >= 0, got -1"):
        ops.nms(boxes, scores, 0.5, max_output=-1)
    with pytest.raises(ValueError, match=r"expected idxs of shape \[1\]"):
        ops.batched_nms(boxes, scores, torch.zeros(2, device=device), 0.5)


coordinate = st.integers(-8, 24).map(float) | st.floats(-8, 24, width=32) | st.sampled_from([NAN, INF, -INF, 1e30])


@given(
    boxes=st.lists(st.tuples(*[coordinate] * 4), max_size=40),
    threshold=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.9, 1.0]),
    random=st.randoms(use_true_random=False),
    metric=st.sampled_from(["iou", "diou", "ios"]),
)
def test_equals_the_reference_on_anything(
    boxes: list[Any], threshold: float, random: Any, metric: str, device: torch.device
) -> None:
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    ranks = torch.tensor([random.choice([0.1, 0.5, NAN, INF, random.random()]) for _ in boxes])
    for repeats in (1, 12):  # the grid serves longer lists
        some, scores = rows.repeat(repeats, 1).to(device), ranks.repeat(repeats).to(device)
        ids = torch.arange(len(some), device=device) % 3
        plain, batched = ops.nms.reference, ops.batched_nms.reference
        assert torch.equal(
            ops.nms(some, scores, threshold, metric=metric), plain(some, scores, threshold, metric=metric)
        )
        assert torch.equal(ops.batched_nms(some, scores, ids, threshold), batched(some, scores, ids, threshold))


@pytest.mark.parametrize("make", [data.random_boxes, data.clustered_boxes, data.rpn_boxes], ids=lambda f: f.__name__)
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.3, 0.5, 0.7, 0.95])
def test_equals_torchvision(make: Any, threshold: float, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    for count in (50, 1500, 6000):
        boxes, scores = make(count).to(device), data.scores(count).to(device)
        assert torch.equal(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
    ids = torch.randint(7, (6000,), generator=data.generator(3)).to(device)
    ours, theirs = (f(boxes, scores, ids, threshold) for f in (ops.batched_nms, torchvision.ops.batched_nms))
    # torchvision breaks ties of scores at random on its way out; scores are distinct here
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kept", [100, 3000])
def test_few_of_many_boxes(kept: int, device: torch.device) -> None:
    """The best may all lie in one heap: ranks beyond those looked at first are then needed."""
    boxes = data.random_boxes(20_000, 1000.0, 60.0, seed=3)
    scores, ids = data.scores(20_000), torch.randint(5, (20_000,), generator=data.generator(4))
    heap = scores > 0.6
    boxes[heap] = boxes[0].clone()
    boxes, scores, ids = boxes.to(device), scores.to(device), ids.to(device)
    everything = ops.batched_nms(boxes, scores, ids, 0.4)
    assert len(everything) > 3000 and int((scores[everything] > 0.6).sum()) == 5
    assert torch.equal(ops.batched_nms(boxes, scores, ids, 0.4, max_output=kept), everything[:kept])
    padded, count = ops.nms_padded(boxes[None], scores[None], 0.4, kept, idxs=ids[None])
    assert int(count) == kept and torch.equal(padded[0], everything[:kept])


@pytest.mark.slow  # half a minute in emulation
@pytest.mark.parametrize("groups", [500, 125_000])
def test_half_a_million_boxes(groups: int, device: torch.device) -> None:
    """Groups far apart, whose best box suppresses the others; memory linear in N: all pairs' bits would take 31 GB."""
    if groups > 500 and fastvision.BACKEND == "emulated":
        pytest.skip("every box against every kept one: hours in emulation")
    count, g = 500_000, data.generator(12)
    scores = data.scores(count).reshape(groups, -1).sort(dim=1, descending=True).values
    group = torch.arange(groups)[:, None].expand_as(scores)
    shift = torch.randint(-3, 4, (2, *scores.shape), generator=g)
    shift[:, :, 0] = 0  # the best box; the others overlap it by 17^2 / (2 20^2 - 17^2) = 0.57 at least
    x, y = group % 400 * 40 + shift[0], group // 400 * 40 + shift[1]
    boxes = torch.stack([x, y, x + 20, y + 20], dim=-1).reshape(-1, 4).float()
    order = torch.randperm(count, generator=g)
    boxes, scores, best = boxes[order].to(device), scores.flatten()[order].to(device), order % (count // groups) == 0
    before = peak_memory(device)
    kept = ops.nms(boxes, scores, 0.5)
    assert peak_memory(device) - before < 500e6
    expected = best.nonzero()[:, 0].to(device)
    assert torch.equal(kept, expected[scores[expected].argsort(descending=True)])


def peak_memory(device: torch.device) -> float:
    """Bytes, of this process or on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_inverted_boxes_at_a_negative_threshold(device: torch.device) -> None:
    boxes = data.random_boxes(60, 30.0, 20.0)
    boxes = torch.cat([boxes, boxes[:, [2, 3, 0, 1]], boxes[:, [2, 1, 0, 3]]]).to(device)
    scores = data.scores(len(boxes)).to(device)
    for threshold in (-2.0, -0.3, -1e-3, 0.0, 0.2):
        for metric in ("iou", "diou"):
            args: Any = boxes, scores, threshold
            assert torch.equal(ops.nms(*args, metric=metric), ops.nms.reference(*args, metric=metric))


def test_nan_ids_equal_nothing(device: torch.device) -> None:
    boxes, scores = torch.tensor([CLUSTER[0]] * 6, device=device), torch.tensor([6.0, 5, 4, 3, 2, 1], device=device)
    ids = torch.tensor([NAN, NAN, 1.0, -0.0, 0.0, NAN], device=device)
    for op in (ops.batched_nms, ops.batched_nms.reference):
        assert op(boxes, scores, ids, 0.5).tolist() == [0, 1, 2, 3, 5]
    keep, _ = ops.nms_padded(boxes[None], scores[None], 0.5, 6, idxs=ids[None])
    assert keep.tolist() == [[0, 1, 2, 3, 5, -1]]


def test_grid_and_linear_search_agree_on_all_scales() -> None:
    """Sides from a thousandth to a thousand: long, thin and nested boxes, and a few that cover every cell."""
    g = data.generator(9)
    count = 3000
    corner = torch.rand(count, 2, generator=g) * 1000
    side = 10 ** (torch.rand(count, 2, generator=g) * 6 - 3)
    boxes = torch.cat([corner, corner + side], 1)
    boxes = torch.cat([boxes, boxes + side.repeat(1, 2) * 0.05])
    scores = data.scores(len(boxes))
    for threshold in (0.2, 0.34, 0.5, 0.8):
        assert torch.equal(ops.nms(boxes, scores, threshold), ops.nms.reference(boxes, scores, threshold))


@pytest.mark.parametrize("scale", [1e-19, 1e-20, 1e-21, 1e-22])
def test_areas_that_underflow(scale: float, device: torch.device) -> None:
    """Areas of a few subnormal units: shortcuts that hold for rounded numbers do not, and must not be taken."""
    boxes, scores = (data.random_boxes(600, 10.0, 5.0) * scale).to(device), data.scores(600).to(device)
    for threshold in (0.3, 0.5):
        assert torch.equal(ops.nms(boxes, scores, threshold), ops.nms.reference(boxes, scores, threshold))


def test_half_scores_meet_the_threshold_in_float32(device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6]], device=device)
    scores = torch.tensor([0.3, 0.2], dtype=torch.float16, device=device)  # 0.3 is stored as 0.30004883
    for op in (ops.nms, ops.nms.reference):
        assert op(boxes, scores, 0.5, score_threshold=0.3).tolist() == [0]


def test_same_result_for_every_thread_count(device: torch.device) -> None:
    boxes, scores = data.rpn_boxes(5000).to(device), data.scores(5000).to(device)
    ids = torch.randint(20, (5000,), generator=data.generator(4)).to(device)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((ops.nms(boxes, scores, 0.5), ops.batched_nms(boxes, scores, ids, 0.5)))
    finally:
        torch.set_num_threads(threads)
    for pair in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(pair, results[0], strict=True))


def test_complex_ids_are_rejected(device: torch.device) -> None:
    boxes, scores = torch.zeros(1, 4, device=device), torch.zeros(1, device=device)
    with pytest.raises(ValueError, match="expected idxs of a real dtype"):
        ops.batched_nms(boxes, scores, torch.zeros(1, dtype=torch.complex64, device=device), 0.5)
