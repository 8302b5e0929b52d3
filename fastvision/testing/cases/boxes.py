"""Box ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes

_GradientSamples = Callable[[torch.device], Iterator[Sample]]


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


def _elementwise(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _rows(device, dtype):
        yield Sample(sample.name, sample.args, {"elementwise": True})


def _elementwise_gradients(device: torch.device) -> Iterator[Sample]:
    for sample in _row_gradients(device):
        yield Sample(sample.name, sample.args, {"elementwise": True})


def _rows(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n in (0, 1, 33, 200):
        a, b = data.random_boxes(n, 40.0, 30.0, 1), data.random_boxes(n, 40.0, 30.0, 2)
        yield Sample(f"{n}", (a.to(device, dtype), b.to(device, dtype)))
    far = data.random_boxes(9, 40.0, 30.0) + 100
    yield Sample("apart", (far.to(device, dtype), data.random_boxes(9, 40.0, 30.0, 3).to(device, dtype)))


def _losses(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for sample in _rows(device, dtype):
        for reduction in ("none", "mean", "sum"):
            yield Sample(f"{sample.name}, {reduction}", (*sample.args, reduction))
    yield Sample("more slack", (*sample.args, "mean", 0.5))


def _row_gradients(device: torch.device) -> Iterator[Sample]:
    a, b = data.random_boxes(6, 10.0, 20.0, 1), data.random_boxes(6, 10.0, 20.0, 2)
    yield Sample("overlapping", (a.to(device, torch.float64), b.to(device, torch.float64)))
    yield Sample("apart", (a.to(device, torch.float64), b.to(device, torch.float64) + 100))


def _row_pair_work(sample: Sample) -> Work:
    a, b = sample.args[:2]
    return Work(nbytes(a, b) + 4 * len(a), 30 * len(a))


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


def _rotated(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    for n, m in ((0, 0), (0, 5), (5, 0), (1, 1), (17, 33), (20, 600)):
        a, b = (data.random_rotated_rois(k, 1, 90.0, 90.0, s)[:, 1:].to(device, dtype) for k, s in ((n, 1), (m, 2)))
        yield Sample(f"{n}x{m}", (a, b))
    yield Sample("clockwise", (a, b), {"clockwise": True})
    yield Sample("identical and non-contiguous", (a.repeat(1, 2)[:, :5], a))


def _rotated_work(sample: Sample) -> Work:
    """Of pairs that are near."""
    a, b = sample.args[:2]
    return Work(nbytes(a, b) + 4 * len(a) * len(b), 200 * len(a) * len(b))


def _matching(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Boxes on an integer grid, exact in every dtype, so that all dtypes agree on every overlap and every tie."""
    for g, a in ((0, 0), (0, 5), (5, 0), (1, 1), (7, 300), (40, 700)):
        gt, anchors = data.random_boxes(g, 90.0, 40.0, 1).round(), data.random_boxes(a, 90.0, 40.0, 2).round()
        for low_quality in (False, True):
            boxes = gt.to(device, dtype), anchors.to(device, dtype)
            yield Sample(f"{g}x{a}, low quality {low_quality}", (*boxes, 0.5, 0.3, low_quality))
    yield Sample("one threshold", (*boxes, 0.4, 0.4))
    yield Sample("a ground truth apart", (boxes[0] + 200, boxes[1], 0.5, 0.3, True))
    yield Sample("float32 anchors", (boxes[0], boxes[1].float(), 0.5, 0.3, True))


def _matching_work(sample: Sample) -> Work:
    gt, anchors = sample.args[:2]
    return Work(nbytes(gt, anchors) + 8 * len(anchors), 14 * len(gt) * len(anchors))


def _formats(*rest: Any, **kwargs: Any) -> Callable[[torch.device, torch.dtype], Iterator[Sample]]:
    """Boxes of any leading shape, followed by ``rest``."""

    def samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
        boxes = data.random_boxes(60, 40.0, 30.0).round().to(device, dtype)
        for shape in ((60, 4), (0, 4), (1, 4), *kwargs.get("shapes", ((3, 20, 4), (4,)))):
            yield Sample(str(shape), (boxes[: math.prod(shape[:-1])].reshape(shape), *rest))
        yield Sample("non-contiguous", (boxes.repeat(1, 2)[:, ::2], *rest))

    return samples


def _format_gradients(*rest: Any) -> _GradientSamples:
    def samples(device: torch.device) -> Iterator[Sample]:
        yield Sample("seven", (data.random_boxes(7, 40.0, 30.0).to(device, torch.float64), *rest))

    return samples


def _format_case(name: str, *rest: Any, variant: str = "") -> OpCase:
    samples, gradients = _formats(*rest), _format_gradients(*rest)
    op: Any = getattr(ops, name)
    return OpCase(name, op, (), samples, _format_work, gradients, (0,), linear=True, variant=variant)


def _format_work(sample: Sample) -> Work:
    return Work(2 * nbytes(sample.args[0]), sample.args[0].numel())


def _row_work(sample: Sample) -> Work:
    first, anchors = sample.args[:2]
    return Work(2 * nbytes(first) + nbytes(anchors), 10 * first.numel())


def _box_case(name: str, **kwargs: Any) -> OpCase:
    return OpCase(name, getattr(ops, name), (name, f"{name}_backward"), differentiable=(0, 1), **kwargs)


def _without_alpha(name: str, samples: _GradientSamples) -> _GradientSamples:
    """Squares for the complete form: its alpha counts as a constant, which is the true gradient only where the aspect
    ratios are equal. Elsewhere its gradient is compared with the reference's."""
    if not name.startswith("complete"):
        return samples

    def squares(device: torch.device) -> Iterator[Sample]:
        for sample in samples(device):
            boxes = [torch.cat([b[:, :2], b[:, :2] + b[:, 2:3] - b[:, :1]], dim=1) for b in sample.args]
            yield Sample(sample.name, tuple(boxes), sample.kwargs)

    return squares


def _overlap_case(name: str, **kwargs: Any) -> OpCase:
    torch_ops = ("box_iou", "box_iou_backward")
    return OpCase(name, getattr(ops, name), torch_ops, differentiable=(0, 1), **kwargs)


_OVERLAPS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
_LOSSES = ("generalized_box_iou_loss", "distance_box_iou_loss", "complete_box_iou_loss")

CASES = (
    *(
        _overlap_case(name, samples=_pairs, gradient_samples=_without_alpha(name, _pair_gradients), work=_pair_work)
        for name in _OVERLAPS
    ),
    *(
        _overlap_case(
            name,
            variant="elementwise",
            samples=_elementwise,
            gradient_samples=_without_alpha(name, _elementwise_gradients),
            work=_row_pair_work,
        )
        for name in _OVERLAPS
    ),
    *(
        _overlap_case(name, samples=_losses, gradient_samples=_without_alpha(name, _row_gradients), work=_row_pair_work)
        for name in _LOSSES
    ),
    OpCase("box_iou_rotated", ops.box_iou_rotated, ("box_iou_rotated",), _rotated, _rotated_work),
    OpCase("match_boxes", ops.match_boxes, ("match_boxes",), _matching, _matching_work, exact=True),
    _format_case("box_convert", "xyxy", "cxcywh"),
    _format_case("box_convert", "cxcywh", "xyxy", variant="back"),
    _format_case("clip_boxes_to_image", (33, 41)),
    OpCase("remove_small_boxes", ops.remove_small_boxes, (), _formats(12.0, shapes=()), _format_work, exact=True),
    _box_case("encode_boxes", samples=_encode_samples, gradient_samples=_encode_gradients, work=_row_work),
    _box_case("decode_boxes", samples=_decode_samples, gradient_samples=_decode_gradients, work=_row_work),
)
