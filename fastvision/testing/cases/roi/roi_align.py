"""RoIAlign."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample
from fastvision.testing.cases.roi.common import pooling_work


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


def _box_gradients(sample: Sample) -> Sample:
    return Sample(sample.name, sample.args, {**sample.kwargs, "box_gradients": True})


def _box_gradient_samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    """Rois in float64, that no sample is within rounding of a kink: there the gradient has no one value."""
    features = data.feature_map(2, 20, 25, 31).to(device, dtype)
    rois = data.random_rois(9, 2, 100.0, 124.0).to(device, features.dtype if dtype == torch.float64 else torch.float32)
    last = features.to(memory_format=torch.channels_last)
    for ratio, aligned in ((2, False), (3, True), (0, True)):
        yield _box_gradients(Sample(f"ratio {ratio}", (features, rois, (7, 5), 0.25, ratio, aligned)))
    yield _box_gradients(Sample("channels_last", (last, rois, (3, 2), 0.25, 2)))
    yield _box_gradients(Sample("strided", (features[:, ::3, 1:, ::2], rois, 4, 0.25, 2)))
    yield _box_gradients(Sample("no rois", (features, rois[:0], 7, 0.25, 2)))
    small = torch.tensor([[0, 5.1, 5.2, 5.4, 5.7], [1, -3.2, -4.1, 30.3, 28.8], [0, 200, 200, 220, 230]])
    yield _box_gradients(Sample("small, sticking out, outside", (features, small.to(rois), 3, 1.0, 2)))
    bad = torch.tensor([[0, float("nan"), 1, 9, 9], [1, 1, 1, float("inf"), 9]])
    yield _box_gradients(Sample("nan and inf rois", (features, bad.to(rois), 3, 1.0, 2)))


def _box_gradient_gradients(device: torch.device) -> Iterator[Sample]:
    """Lists of boxes: the image index of a roi is no number to differentiate by."""
    features = data.feature_map(2, 3, 7, 6).to(device, torch.float64)
    boxes = data.boxes_of_images(data.random_rois(4, 2, 7.0, 6.0).to(device, torch.float64), 2)
    yield _box_gradients(Sample("ratio 2", (features, boxes, 3, 1.0, 2)))
    yield _box_gradients(Sample("adaptive", (features, boxes, (2, 4), 1.0, 0, True)))
    tiny = torch.tensor([[2.1, 1.2, 2.6, 1.9], [3.3, 2.2, 3.4, 4.7]], dtype=torch.float64, device=device)
    yield _box_gradients(Sample("shorter than a pixel", (features, [tiny, tiny[:0]], 2, 1.0, 2)))


CASES = (
    OpCase(
        "roi_align",
        ops.roi_align,
        ("roi_align", "roi_align_backward"),
        _roi_align_samples,
        pooling_work,
        gradient_samples=_roi_align_gradients,
        differentiable=(0,),
        linear=True,
    ),
    OpCase(
        "roi_align",
        ops.roi_align,
        ("roi_align", "roi_align_backward", "roi_align_box_gradients"),
        _box_gradient_samples,
        pooling_work,
        gradient_samples=_box_gradient_gradients,
        differentiable=(0, 1),
        variant="box_gradients",
    ),
)
