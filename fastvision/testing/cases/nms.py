"""Non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work


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


def _nms_work(sample: Sample) -> Work:
    n = len(sample.args[0])
    return Work(n * (16 + 4 + 8), 14 * n)


CASES = (
    OpCase("nms", ops.nms, ("nms",), _nms_samples, _nms_work, exact=True),
    OpCase("batched_nms", ops.batched_nms, ("nms",), _batched_nms_samples, _nms_work, exact=True),
)
