"""Non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes


def _spread(count: int, dtype: torch.dtype) -> Tensor:
    """Boxes on an integer grid, exact in every dtype, so that all dtypes agree on every decision."""
    return data.random_boxes(count, 200.0, 50.0).round().to(dtype)


def _nms_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n in (0, 1, 2, 65, 300, 1000):
        for threshold in (0.0, 0.3, 0.5, 0.7):
            scores = data.scores(n).to(device)
            yield Sample(f"{n} at {threshold}", (_spread(n, dtype).to(device), scores, threshold))
    boxes, scores = _spread(400, dtype).to(device), data.scores(400).to(device)
    tied = (scores * 8).round().to(dtype)
    yield Sample("equal scores", (boxes, tied, 0.5))
    yield Sample("one score", (boxes, torch.ones_like(tied), 0.4))
    yield Sample("max_output", (boxes, scores, 0.5), {"max_output": 7})
    yield Sample("max_output 0", (boxes, scores, 0.5), {"max_output": 0})
    yield Sample("score_threshold", (boxes, scores, 0.5), {"score_threshold": 0.5})
    yield Sample("diou", (boxes, scores, 0.4), {"metric": "diou"})
    yield Sample("ios", (boxes, scores, 0.6), {"metric": "ios"})
    yield Sample("non-contiguous", (boxes.repeat(1, 2)[:, ::2].flip(1)[:, [3, 2, 1, 0]].T.contiguous().T, scores, 0.5))


def _batched_nms_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n, classes in ((0, 1), (1, 1), (300, 3), (700, 80)):
        ids = torch.randint(classes, (n,), generator=data.generator(5)).to(device)
        yield Sample(f"{n} of {classes}", (_spread(n, dtype).to(device), data.scores(n).to(device), ids, 0.5))
    boxes, scores = _spread(300, dtype).to(device), data.scores(300).to(device)
    ids = torch.randint(4, (300,), generator=data.generator(6)).to(device)
    yield Sample("huge ids", (boxes, scores, ids * 2**40 - 2**41, 0.5))
    yield Sample("float ids", (boxes, scores, ids.float() / 4 - 0.5, 0.5))
    yield Sample("negative coordinates", (boxes - 500, scores, ids, 0.3))
    yield Sample("limited", (boxes, scores, ids, 0.3), {"max_output": 9, "score_threshold": 0.2})


def _nms_padded_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for sets, n in ((0, 5), (2, 0), (1, 1), (3, 200)):
        boxes = _spread(sets * n, dtype).reshape(sets, n, 4).to(device)
        scores = data.scores(sets * n).reshape(sets, n).to(device)
        yield Sample(f"{sets} x {n}", (boxes, scores, 0.5, 50))
    ids = torch.randint(4, (3, 200), generator=data.generator(7)).to(device)
    yield Sample("classes", (boxes, scores, 0.4, 300), {"idxs": ids})
    yield Sample("few", (boxes, scores, 0.4, 5), {"idxs": ids.float()})
    yield Sample("none wanted", (boxes, scores, 0.4, 0))
    yield Sample("score_threshold", (boxes, scores, 0.4, 100), {"score_threshold": 0.8, "metric": "diou"})


def _nms_rotated_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n in (0, 1, 70, 400):
        rois = data.random_rotated_rois(n, 1, 300, 300)[:, 1:].round().to(device, dtype)
        for threshold in (0.1, 0.5, 0.7):
            yield Sample(f"{n} at {threshold}", (rois, data.scores(n).to(device), threshold))
    ids = torch.randint(3, (400,), generator=data.generator(8)).to(device)
    yield Sample("classes", (rois, data.scores(400).to(device), 0.3), {"idxs": ids})
    yield Sample("float classes", (rois, data.scores(400).to(device), 0.5), {"idxs": ids / 2})
    yield Sample("clockwise", (rois, (data.scores(400) * 8).round().to(device, dtype), 0.3), {"clockwise": True})
    yield Sample("negative threshold", (rois, data.scores(400).to(device), -0.5))


def _soft_nms_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n in (0, 1, 70, 300):
        boxes, scores = _spread(n, dtype).to(device), data.scores(n).to(device)
        for method in ("gaussian", "linear", "hard"):
            yield Sample(f"{n} {method}", (boxes, scores), {"method": method})
    ids = torch.randint(5, (300,), generator=data.generator(9)).to(device)
    yield Sample("classes", (boxes, scores, 0.4), {"idxs": ids, "method": "linear"})
    yield Sample("float classes", (boxes, scores), {"idxs": ids / 2, "sigma": 0.3, "score_threshold": 0.1})
    yield Sample("equal scores", (boxes, torch.ones_like(scores, dtype=dtype)), {"method": "hard"})


def _nms_work(sample: Sample) -> Work:
    n = len(sample.args[0])
    return Work(n * (16 + 4 + 8), 14 * n)


def _nms_padded_work(sample: Sample) -> Work:
    boxes, scores, _, max_output = sample.args
    return Work(nbytes(boxes, scores) + 8 * len(boxes) * (max_output + 1), 14 * scores.numel())


CASES = (
    OpCase("nms", ops.nms, ("nms",), _nms_samples, _nms_work, exact=True),
    OpCase("batched_nms", ops.batched_nms, ("nms",), _batched_nms_samples, _nms_work, exact=True),
    OpCase("nms_padded", ops.nms_padded, ("nms_padded",), _nms_padded_samples, _nms_padded_work),
    OpCase("nms_rotated", ops.nms_rotated, ("nms_rotated",), _nms_rotated_samples, _nms_work, exact=True),
    OpCase("soft_nms", ops.soft_nms, ("soft_nms",), _soft_nms_samples, _nms_work),
)
