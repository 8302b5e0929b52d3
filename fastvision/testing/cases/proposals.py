"""One-call post-processing of detectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes

_SIZES = [(96, 128), (90, 100)]
_GRIDS = ((12, 16), (6, 8), (3, 4))
_STRIDES = [(8, 8), (16, 16), (32, 32)]


def _maps(channels: int, dtype: torch.dtype, device: torch.device, seed: int, images: int = 2) -> list[Tensor]:
    """Distinct values, exact in half types as in all others."""
    g = data.generator(seed)
    return [(torch.randn(images, channels, h, w, generator=g) * 1.5).to(dtype).to(device) for h, w in _GRIDS]


def _anchors(device: torch.device) -> list[Tensor]:
    generator = ops.AnchorGenerator(((16, 24), (32, 48), (64, 96)), ((0.5, 1.0),) * 3)
    return [a.to(device) for a in generator.cell_anchors]


def _no_image(logits: list[Tensor], deltas: list[Tensor], *rest: Any) -> tuple[Any, ...]:
    return [t[:0] for t in logits], [t[:0] for t in deltas], *rest[:-1], []


def _rpn_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    logits, deltas, anchors = _maps(4, dtype, device, 0), _maps(16, dtype, device, 1), _anchors(device)
    yield Sample("two images", (logits, deltas, anchors, _STRIDES, _SIZES), {"pre_nms_top_n": 100})
    yield Sample("few", (logits, deltas, anchors, _STRIDES, _SIZES), {"pre_nms_top_n": 30, "post_nms_top_n": 9})
    tied = [t.round() for t in logits]
    yield Sample("ties", (tied, deltas, anchors, _STRIDES, _SIZES), {"pre_nms_top_n": 100, "min_size": 20.0})
    wide = [t.to(memory_format=torch.channels_last) for t in tied]
    deltas_wide = [t.to(memory_format=torch.channels_last) for t in deltas]
    yield Sample("channels_last", (wide, deltas_wide, anchors, _STRIDES, _SIZES), {"score_threshold": 0.5})
    yield Sample("padded", (logits, deltas, anchors, _STRIDES, _SIZES), {"post_nms_top_n": 400, "padded": True})
    yield Sample("no image", _no_image(logits, deltas, anchors, _STRIDES, _SIZES))
    yield Sample("no image, padded", _no_image(logits, deltas, anchors, _STRIDES, _SIZES), {"padded": True})


def _retinanet_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    logits, deltas, anchors = _maps(12, dtype, device, 2), _maps(16, dtype, device, 3), _anchors(device)
    args = (logits, deltas, anchors, _STRIDES, _SIZES)
    yield Sample("two images", args, {"score_threshold": 0.5, "top_k": 200})
    yield Sample("few", args, {"top_k": 50, "detections_per_image": 20})
    tied = [t.round() * 12 for t in logits]  # several logits of probability 1
    yield Sample("ties", (tied, *args[1:]), {"top_k": 60})
    wide = [t.to(memory_format=torch.channels_last) for t in tied]
    yield Sample("channels_last", (wide, *args[1:]), {"top_k": 60, "score_threshold": 0.7})
    yield Sample("padded", args, {"score_threshold": 0.6, "padded": True})
    yield Sample("none", args, {"score_threshold": 1.0})
    yield Sample("no image", _no_image(*args))


def _ssd_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    logits, deltas = _maps(20, dtype, device, 4), _maps(16, dtype, device, 5)
    generator = ops.DefaultBoxGenerator([[2], [2], [2]])
    boxes = generator._grid_default_boxes(_GRIDS, (96, 128)) * torch.tensor([128.0, 96, 128, 96])
    anchors = ops.box_convert(boxes, "cxcywh", "xyxy").to(device)
    args = (logits, deltas, anchors, _SIZES)
    yield Sample("two images", args, {"num_classes": 5, "score_threshold": 0.3})
    yield Sample("few", args, {"num_classes": 5, "top_k": 20, "detections_per_image": 15})
    tied = [t.round() for t in logits]
    yield Sample("ties", (tied, *args[1:]), {"num_classes": 5, "top_k": 40})
    wide = [t.to(memory_format=torch.channels_last) for t in tied]
    yield Sample("channels_last", (wide, *args[1:]), {"num_classes": 5, "top_k": 40})
    yield Sample("padded", args, {"num_classes": 5, "score_threshold": 0.4, "padded": True})
    yield Sample("none", args, {"num_classes": 5, "score_threshold": 1.0})
    yield Sample("no image", _no_image(*args), {"num_classes": 5})


def _yolo_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    g = data.generator(6)
    grid = torch.rand(2, 7, 7, 2 * 5 + 6, generator=g).to(dtype).to(device)
    yield Sample("grid", (grid, _SIZES), {"num_classes": 6})
    yield Sample("grid, all classes", (grid, _SIZES), {"num_classes": 6, "multi_label": True, "score_threshold": 0.5})
    levels = _maps(4 * 8 + 3, dtype, device, 7)
    yield Sample("dense", (levels, _SIZES), {"num_classes": 3, "score_threshold": 0.5})
    tied = [t.round() for t in levels]
    yield Sample("dense, ties", (tied, _SIZES), {"num_classes": 3, "top_k": 40})
    yield Sample("dense, all classes", (tied, _SIZES), {"num_classes": 3, "top_k": 50, "multi_label": True})
    yield Sample("dense, padded", (levels, _SIZES), {"num_classes": 3, "score_threshold": 0.6, "padded": True})
    yield Sample("no image", ([t[:0] for t in levels], []), {"num_classes": 3, "padded": True})
    yield Sample("grid, no image", (grid[:0], []), {"num_classes": 6})


def _work(sample: Sample) -> Work:
    read = [t for a in sample.args[:2] if isinstance(a, list) for t in a if isinstance(t, Tensor)]
    return Work(nbytes(*read), sum(t.numel() for t in read))


_KERNELS = ("top_candidates", "decode_candidates", "nms_padded")
CASES = (
    OpCase("rpn_proposals", ops.rpn_proposals, _KERNELS, _rpn_samples, _work),
    OpCase("retinanet_detections", ops.retinanet_detections, _KERNELS, _retinanet_samples, _work),
    OpCase("ssd_detections", ops.ssd_detections, ("top_candidates", "decode_boxes", "nms_padded"), _ssd_samples, _work),
    OpCase("yolo_detections", ops.yolo_detections, ("top_candidates", "nms_padded"), _yolo_samples, _work),
)
