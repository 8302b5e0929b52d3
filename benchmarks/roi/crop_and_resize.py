"""R-CNN's warp: two thousand proposals of one image to 227 x 227 with 16 pixels of context, and SPP-net's pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.workload import OURS, REFERENCE, TORCHVISION, Options, Verdict, Workload, case, close, torchvision_ops
from fastvision import ops
from fastvision.testing import Sample, data

SIZE, CONTEXT, MEAN = 227, 16, 0.25


def workloads(options: Options) -> Iterator[Workload]:
    # smooth, as photographs are: on noise every filter gives another picture
    images = F.interpolate(data.feature_map(1, 3, 24, 32), (375, 500), mode="bicubic").to(options.device)
    rois = data.random_rois(2000, 1, 375.0, 500.0).to(options.device)
    contenders: dict[str, Callable[[], Tensor]] = {
        OURS: lambda: ops.crop_and_resize(images, rois, SIZE, context=CONTEXT, mean=MEAN)
    }
    torchvision = torchvision_ops()
    if torchvision:
        contenders[f"{TORCHVISION} roi_align"] = lambda: _with_torchvision(torchvision.roi_align, images, rois)
    contenders["crop, interpolate, pad"] = lambda: _one_by_one(images, rois)
    yield Workload(
        "roi",
        "crop_and_resize, 2000 boxes of 3x375x500 to 227",
        contenders,
        _agree,
        case("crop_and_resize").work(Sample("", (images, rois, SIZE))),
        skipped={REFERENCE: "two matrix products a box, and the loop above is what people write"},
    )


def _agree(label: str, theirs: Tensor, ours: Tensor) -> Verdict:
    """The loop rounds each box to whole pixels and crops before it resamples: close, and another picture."""
    if label.startswith(TORCHVISION):
        return close(1e-4, 1e-4)(label, theirs, ours)
    difference = float((theirs - ours).abs().mean())
    return Verdict(f"mean diff {difference:.0e}", difference < 0.05)


def _dilated(rois: Tensor) -> Tensor:
    low, high = rois[:, 1:3], rois[:, 3:5]
    margin = (high - low) * CONTEXT / (SIZE - 2 * CONTEXT)
    return torch.cat([rois[:, :1], low - margin, high + margin], 1)


def _with_torchvision(roi_align: Callable[..., Tensor], images: Tensor, rois: Tensor) -> Tensor:
    return roi_align(images - MEAN, _dilated(rois), SIZE, 1.0, -1, True).add_(MEAN)


def _one_by_one(images: Tensor, rois: Tensor) -> Tensor:
    """Cut out what is inside the image, resize it, paste it into a canvas of the mean."""
    height, width = images.shape[2:]
    crops = images.new_full((len(rois), images.shape[1], SIZE, SIZE), MEAN)
    for k, (n, x1, y1, x2, y2) in enumerate(_dilated(rois).tolist()):
        left, top = max(round(x1), 0), max(round(y1), 0)
        right, bottom = min(round(x2), width), min(round(y2), height)
        if right <= left or bottom <= top:
            continue
        scale_x, scale_y = SIZE / (x2 - x1), SIZE / (y2 - y1)
        x, y = max(round((left - x1) * scale_x), 0), max(round((top - y1) * scale_y), 0)
        w = min(max(round((right - left) * scale_x), 1), SIZE - x)
        h = min(max(round((bottom - top) * scale_y), 1), SIZE - y)
        part = images[int(n), None, :, top:bottom, left:right]
        crops[k, :, y : y + h, x : x + w] = F.interpolate(part, (h, w), mode="bilinear", antialias=True)[0]
    return crops
