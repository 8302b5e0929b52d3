"""The table: one :class:`OpCase` for every public op. Tests and benchmarks both parametrize over it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work


def _nbytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


# boxes ----------------------------------------------------------------------------------------------------------------


def _pairs(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n, m in ((0, 0), (0, 5), (5, 0), (1, 1), (17, 33), (64, 200)):
        a, b = data.random_boxes(n, 40.0, 30.0, 1), data.random_boxes(m, 40.0, 30.0, 2)
        yield Sample(f"{n}x{m}", (a.to(device, dtype), b.to(device, dtype)))
    empty = torch.tensor([[3.0, 3.0, 3.0, 3.0], [1.0, 1.0, 5.0, 5.0], [4.0, 4.0, 2.0, 2.0]]).to(device, dtype)
    yield Sample("empty and inverted boxes", (empty, empty))
    wide = data.random_boxes(9, 40.0, 30.0).to(device, dtype).repeat(1, 2)[:, ::2]
    yield Sample("non-contiguous", (wide, wide.flip(0)))


def _pair_gradients(device: torch.device) -> Iterator[Sample]:
    a, b = data.random_boxes(4, 10.0, 20.0, 1), data.random_boxes(5, 10.0, 20.0, 2)
    yield Sample("overlapping", (a.to(device, torch.float64), b.to(device, torch.float64)))


def _pair_work(sample: Sample) -> Work:
    a, b = sample.args[:2]
    out = len(a) * len(b) * torch.result_type(a, b).itemsize
    return Work(_nbytes(a, b) + out, 14 * len(a) * len(b))


def _encode_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n in (0, 1, 100):
        boxes, anchors = data.random_boxes(n, 50.0, 40.0, 1), data.random_boxes(n, 50.0, 40.0, 2)
        yield Sample(f"{n}", (boxes.to(device, dtype), anchors.to(device, dtype), (10.0, 10.0, 5.0, 5.0)))
    yield Sample("float32 anchors", (data.random_boxes(7).to(device, dtype), data.random_boxes(7, seed=3).to(device)))


def _encode_gradients(device: torch.device) -> Iterator[Sample]:
    boxes, anchors = data.random_boxes(6, 50.0, 40.0, 1), data.random_boxes(6, 50.0, 40.0, 2)
    yield Sample(
        "weighted", (boxes.to(device, torch.float64), anchors.to(device, torch.float64), (10.0, 10.0, 5.0, 5.0))
    )


def _deltas(n: int, k: int, seed: int = 4) -> Tensor:
    return torch.randn(n, 4 * k, generator=data.generator(seed)) * 0.5


def _decode_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n, k in ((0, 1), (1, 1), (100, 1), (20, 3), (5, 0)):
        deltas, anchors = _deltas(n, k).to(device, dtype), data.random_boxes(n, 50.0, 40.0, 2).to(device, dtype)
        yield Sample(f"{n}x{k}", (deltas, anchors, (10.0, 10.0, 5.0, 5.0)))
    deltas, anchors = _deltas(30, 2).to(device, dtype), data.random_boxes(30, 50.0, 40.0, 2).to(device, dtype)
    yield Sample("clipped", (deltas, anchors), {"clip_to": (40, 60)})
    yield Sample("clamped scale", (deltas * 20, anchors), {"scale_clamp": 1.0})


def _decode_gradients(device: torch.device) -> Iterator[Sample]:
    deltas, anchors = (
        _deltas(6, 2).to(device, torch.float64),
        data.random_boxes(6, 50.0, 40.0).to(device, torch.float64),
    )
    yield Sample("two classes", (deltas, anchors, (10.0, 10.0, 5.0, 5.0)))
    yield Sample("clipped", (deltas, anchors), {"clip_to": (43.3, 57.7)})


def _row_work(sample: Sample) -> Work:
    first, anchors = sample.args[:2]
    return Work(2 * _nbytes(first) + _nbytes(anchors), 10 * first.numel())


# nms ------------------------------------------------------------------------------------------------------------------


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


# roi ------------------------------------------------------------------------------------------------------------------


def _roi_align_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    features = data.feature_map(2, 20, 25, 31).to(device, dtype)
    rois = data.random_rois(9, 2, 100.0, 124.0).to(device)
    for ratio in (2, 3, 0):
        for aligned in (False, True):
            yield Sample(f"ratio {ratio} aligned {aligned}", (features, rois, (7, 5), 0.25, ratio, aligned))
    last = features.to(memory_format=torch.channels_last)
    yield Sample("channels_last", (last, rois, 7, 0.25, 2))
    yield Sample("channels_last adaptive", (last, rois, 3, 0.25, 0, True))
    wide = data.feature_map(1, 32, 12, 9).to(device, dtype).to(memory_format=torch.channels_last)
    yield Sample("channels_last, whole vectors", (wide, data.random_rois(5, 1, 12.0, 9.0).to(device), 2, 1.0, 2))
    yield Sample("strided", (features[:, ::3, 1:, ::2], rois, 4, 0.25, 2))
    yield Sample("list of boxes", (features, [rois[:3, 1:], rois[3:, 1:]], 4, 0.25, 2))
    yield Sample("no rois", (features, rois[:0], 7, 0.25, 2))
    yield Sample("one pixel", (features[:, :, :1, :1], rois, 3, 0.01, 2))
    odd = torch.tensor(
        [[0, -50, -50, -40, -40], [1, 5, 5, 5, 5], [0, 20, 20, 10, 8], [1, -30, -30, 400, 400], [0, 110, 90, 130, 110]]
    )
    for aligned in (False, True):
        yield Sample(
            f"outside, empty, inverted, larger, aligned {aligned}",
            (features, odd.float().to(device), 4, 0.25, 2, aligned),
        )
    bad = torch.tensor(
        [[0, float("nan"), 1, 9, 9], [1, 1, 1, float("inf"), 9], [0, -float("inf"), 1, 9, 9], [1, 1, 1, 9, 9]]
    )
    yield Sample("nan and inf rois", (features, bad.to(device), 3, 1.0, 2))
    yield Sample("nan and inf rois, adaptive", (features, bad.to(device), 3, 1.0, 0))


def _roi_align_gradients(device: torch.device) -> Iterator[Sample]:
    features = data.feature_map(2, 3, 7, 6).to(device, torch.float64)
    rois = data.random_rois(4, 2, 7.0, 6.0).to(device, torch.float64)
    yield Sample("ratio 2", (features, rois, 3, 1.0, 2))
    yield Sample("adaptive", (features, rois, (2, 4), 1.0, 0, True))
    yield Sample("channels_last", (features.to(memory_format=torch.channels_last), rois, 3, 0.5, 2))


def _roi_align_work(sample: Sample) -> Work:
    features, rois, size = sample.args[:3]
    bins = size * size if isinstance(size, int) else size[0] * size[1]
    out = len(rois) * features.shape[1] * bins
    return Work(_nbytes(features) + out * features.element_size(), out * 32)


def _box_case(name: str, **kwargs: Any) -> OpCase:
    return OpCase(name, getattr(ops, name), (name, f"{name}_backward"), differentiable=(0, 1), **kwargs)


CASES: tuple[OpCase, ...] = (
    _box_case("box_iou", samples=_pairs, gradient_samples=_pair_gradients, work=_pair_work),
    _box_case("encode_boxes", samples=_encode_samples, gradient_samples=_encode_gradients, work=_row_work),
    _box_case("decode_boxes", samples=_decode_samples, gradient_samples=_decode_gradients, work=_row_work),
    OpCase("nms", ops.nms, ("nms",), _nms_samples, _nms_work, exact=True),
    OpCase("batched_nms", ops.batched_nms, ("nms",), _batched_nms_samples, _nms_work, exact=True),
    OpCase(
        "roi_align",
        ops.roi_align,
        ("roi_align", "roi_align_backward"),
        _roi_align_samples,
        _roi_align_work,
        gradient_samples=_roi_align_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
