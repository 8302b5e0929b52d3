"""Box ops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes


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
    return Work(nbytes(a, b) + out, 14 * len(a) * len(b))


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
    return Work(2 * nbytes(first) + nbytes(anchors), 10 * first.numel())


def _box_case(name: str, **kwargs: Any) -> OpCase:
    return OpCase(name, getattr(ops, name), (name, f"{name}_backward"), differentiable=(0, 1), **kwargs)


CASES = (
    _box_case("box_iou", samples=_pairs, gradient_samples=_pair_gradients, work=_pair_work),
    _box_case("encode_boxes", samples=_encode_samples, gradient_samples=_encode_gradients, work=_row_work),
    _box_case("decode_boxes", samples=_decode_samples, gradient_samples=_decode_gradients, work=_row_work),
)
