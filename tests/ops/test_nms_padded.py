"""nms_padded: the rows of a batch are nms, and the shape of the output is known beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastvision import _library, ops
from fastvision.testing import data


def batch(sets: int, n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    boxes = torch.stack([data.clustered_boxes(n, 30, 300.0, seed=b) for b in range(sets)])
    scores = torch.stack([data.scores(n, seed=b) for b in range(sets)])
    ids = torch.randint(5, (sets, n), generator=data.generator(2))
    return boxes.to(device), scores.to(device), ids.to(device)


@pytest.mark.parametrize(("sets", "n"), [(1, 1), (4, 500), (2, 5000)])
@pytest.mark.parametrize("max_output", [1, 40, 6000])
def test_rows_are_nms(sets: int, n: int, max_output: int, device: torch.device) -> None:
    boxes, scores, ids = batch(sets, n, device)
    for classes in (None, ids):
        keep, count = ops.nms_padded(boxes, scores, 0.5, max_output, idxs=classes, score_threshold=0.2)
        assert keep.shape == (sets, max_output) and count.shape == (sets,) and keep.dtype == count.dtype == torch.int64
        for b in range(sets):
            options: Any = {"max_output": max_output, "score_threshold": 0.2}
            if classes is None:
                row = ops.nms(boxes[b], scores[b], 0.5, **options)
            else:
                row = ops.batched_nms(boxes[b], scores[b], classes[b], 0.5, **options)
            assert count[b] == len(row)
            assert torch.equal(keep[b, : len(row)], row) and (keep[b, len(row) :] == -1).all()


def test_compiles_with_static_shapes(device: torch.device) -> None:
    boxes, scores, _ = batch(3, 100, device)

    def best(boxes: Tensor, scores: Tensor) -> Tensor:
        keep, _ = ops.nms_padded(boxes, scores, 0.5, 20)
        return boxes.gather(1, keep.clamp(min=0)[..., None].expand(-1, -1, 4))

    compiled = torch.compile(best, fullgraph=True, dynamic=False, backend="aot_eager")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=False):
        assert torch.equal(compiled(boxes, scores), best(boxes, scores))


@pytest.mark.slow  # more sets than a CUDA grid takes along one axis
def test_very_many_sets(device: torch.device) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9]], device=device).repeat(4_100, 1, 1)
    boxes[::3, 1] += 20
    scores = torch.tensor([0.4, 0.8], device=device).repeat(4_100, 1)
    keep, count = ops.nms_padded(boxes, scores, 0.5, 2)
    expected = torch.tensor([1, -1], device=device).repeat(4_100, 1)
    expected[::3, 1] = 0
    assert torch.equal(keep, expected) and torch.equal(count, (expected >= 0).sum(1))


@pytest.mark.skipif(not _library.LOADED, reason="a fake tensor needs the op's shape rule")
def test_shape_is_known_without_data() -> None:
    meta: Any = ops.nms_padded(torch.zeros(2, 9, 4, device="meta"), torch.zeros(2, 9, device="meta"), 0.5, 7)
    assert [t.shape for t in meta] == [(2, 7), (2,)]


def test_padding_boxes_can_be_excluded(device: torch.device) -> None:
    boxes, scores, _ = batch(2, 50, device)
    expected, _ = ops.nms_padded(boxes, scores, 0.5, 30)
    more = torch.cat([boxes, boxes.new_zeros(2, 9, 4)], 1)
    padded, _ = ops.nms_padded(more, torch.cat([scores, scores.new_full((2, 9), -1)], 1), 0.5, 30, score_threshold=-0.5)
    assert torch.equal(padded, expected)


@pytest.mark.parametrize(
    ("boxes", "scores", "max_output", "text"),
    [
        ((3, 4), (3,), 5, r"nms_padded: expected boxes of shape \[B, N, 4\], got \[3, 4\]"),
        ((2, 3, 4), (3,), 5, r"nms_padded: expected scores of shape \[2, 3\] to match boxes \[2, 3, 4\], got \[3\]"),
        ((2, 3, 4), (2, 3), -1, "nms_padded: expected max_output >= 0, got -1"),
    ],
)
def test_bad_arguments(
    boxes: tuple[int, ...], scores: tuple[int, ...], max_output: int, text: str, device: torch.device
) -> None:
    if not _library.LOADED:
        pytest.skip("the plain PyTorch twin leaves the wording of errors to torch")
    with pytest.raises(ValueError, match=text):
        ops.nms_padded(torch.zeros(boxes, device=device), torch.zeros(scores, device=device), 0.5, max_output)
