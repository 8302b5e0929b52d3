"""Masks and keypoints."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes

_SIZE = (60, 90)


def probabilities(count: int, side: int, seed: int = 0) -> Tensor:
    """[count, side, side] smooth blobs in (0, 1)."""
    noise = torch.randn(count, 1, side // 4 + 2, side // 4 + 2, generator=data.generator(seed))
    return torch.nn.functional.interpolate(noise, size=(side, side), mode="bicubic")[:, 0].sigmoid()


def _paste_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    boxes = (data.random_boxes(12, 80.0, 60.0) - 10).to(device)
    # a number apart from the threshold by more than rounding, on half of all pixels' paths
    masks = probabilities(12, 28).to(dtype).to(device)
    for rule in ("torchvision", "detectron2"):
        yield Sample(f"numbers, {rule}", (masks, boxes, _SIZE), {"threshold": None, "rule": rule})
        yield Sample(rule, (masks, boxes, _SIZE), {"rule": rule, "threshold": 0.4987})
        yield Sample(f"none, {rule}", (masks[:0], boxes[:0], _SIZE), {"rule": rule})
    wide = probabilities(12, 24)[:, None, :, :].to(dtype).to(device)
    yield Sample("with a channel", (wide, boxes, _SIZE), {"threshold": 0.4987})
    yield Sample("oblong", (masks[:, :20], boxes, (40, 33)), {"threshold": None})


def _rle_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """All but those that ask for numbers."""
    for sample in _paste_samples(device, dtype):
        if sample.kwargs.get("threshold", 0.5) is not None:
            yield sample


def _paste_work(sample: Sample) -> Work:
    masks, _, (height, width) = sample.args
    return Work(nbytes(masks) + len(masks) * height * width, 0)


def _boxes_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    g = data.generator(2)
    for shape in ((0, 5, 6), (3, 0, 4), (9, 50, 70), (2, 1, 1)):
        yield Sample(str(shape), ((torch.rand(shape, generator=g) > 0.98).to(dtype).to(device),))
    yield Sample("bool", ((torch.rand(9, 33, 31, generator=g) > 0.99).to(device),))
    yield Sample("transposed", ((torch.rand(4, 33, 31, generator=g) > 0.99).to(device).transpose(1, 2),))


def _boxes_work(sample: Sample) -> Work:
    return Work(nbytes(sample.args[0]), 0)


def _pair_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    g = data.generator(3)
    masks = (torch.rand(9, 31, 37, generator=g) > 0.4).to(dtype).to(device)
    masks[3] = 0
    for n, m in ((9, 9), (4, 7), (0, 3), (2, 0)):
        yield Sample(f"{n}x{m}", (masks[:n], masks[9 - m :]))
    yield Sample("bool", (masks[:5] > 0, masks.transpose(1, 2).contiguous().transpose(1, 2)))


def _pair_work(sample: Sample) -> Work:
    first, second = sample.args
    return Work(nbytes(first, second), 2 * len(first) * second.numel())


def _keypoint_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    rois = data.random_boxes(6, 300.0, 90.0).to(device)
    maps = torch.randn(6, 3, 14, 14, generator=data.generator(4)).to(dtype).to(device)
    yield Sample("six", (maps, rois))
    yield Sample("oblong", (maps[:, :, :9], rois))
    yield Sample("tiny rois", (maps, torch.cat([rois[:, :2], rois[:, :2] + 0.3], 1)))
    yield Sample("inverted rois", (maps, rois[:, [2, 3, 0, 1]]))
    yield Sample("none", (maps[:0], rois[:0]))
    yield Sample("no keypoints", (maps[:, :0], rois))


def _keypoint_work(sample: Sample) -> Work:
    return Work(nbytes(*sample.args), 0)


def mask_head(rois: int, channels: int, hidden: int, classes: int, side: tuple[int, int]) -> tuple[Tensor, ...]:
    """Features, the weights and biases of both layers, labels of every class in turn."""
    g = data.generator(6)
    shapes = ((rois, channels, *side), (channels, hidden, 2, 2), (hidden,), (classes, hidden), (classes,))
    scales = (1, max(channels, 1) ** -0.5, 0.5, hidden**-0.5, 0.5)
    tensors = [torch.randn(shape, generator=g) * scale for shape, scale in zip(shapes, scales, strict=True)]
    return *tensors, torch.arange(rois) % classes


def _head_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    *numbers, labels = (t.to(device) for t in mask_head(7, 20, 37, 5, (5, 6)))
    head = (*(t.to(dtype) for t in numbers), labels)
    yield Sample("plain", head)
    last = head[0].to(memory_format=torch.channels_last)
    yield Sample("channels_last", (last, *head[1:]), {"sigmoid": True})
    yield Sample("strided", (head[0][:, :, 1:, ::2], *head[1:]))
    yield Sample("as convolutions", (*head[:3], head[3][:, :, None, None], *head[4:]))
    wide = (t.to(device) for t in mask_head(2, 33, 32, 3, (14, 14)))
    yield Sample("whole vectors", tuple(t.to(dtype) if t.is_floating_point() else t for t in wide))
    yield Sample("one unit", (head[0], head[1][:, :1], head[2][:1], head[3][:, :1], *head[4:]))
    yield Sample("no rois", (head[0][:0], *head[1:5], labels[:0]))


def _head_gradients(device: torch.device) -> Iterator[Sample]:
    for name, side in (("square", (2, 2)), ("oblong", (1, 3))):
        head = (t.to(device) for t in mask_head(2, 2, 2, 2, side))
        yield Sample(name, tuple(t.double() if t.is_floating_point() else t for t in head))


def _head_work(sample: Sample) -> Work:
    features, weight = sample.args[:2]
    rois, _, height, width = features.shape
    out = 4 * rois * height * width
    flops = 2 * rois * height * width * weight.numel() + 2 * out * weight.shape[1]
    return Work(nbytes(*sample.args) + out * features.element_size(), flops)


CASES = (
    OpCase("paste_masks", ops.paste_masks, ("paste_masks",), _paste_samples, _paste_work),
    OpCase("paste_masks_rle", ops.paste_masks_rle, ("paste_masks_rle",), _rle_samples, _paste_work, traceable=False),
    OpCase("masks_to_boxes", ops.masks_to_boxes, ("masks_to_boxes",), _boxes_samples, _boxes_work, exact=True),
    OpCase("mask_iou", ops.mask_iou, (), _pair_samples, _pair_work),
    OpCase(
        "heatmaps_to_keypoints",
        ops.heatmaps_to_keypoints,
        ("heatmaps_to_keypoints",),
        _keypoint_samples,
        _keypoint_work,
    ),
    OpCase(
        "mask_logits",
        ops.mask_logits,
        ("mask_logits",),
        _head_samples,
        _head_work,
        gradient_samples=_head_gradients,
        differentiable=(0, 1, 2, 3, 4),
        linear=True,
    ),
)
