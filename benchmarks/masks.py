"""Masks and keypoints on the way out: 100 objects of an 800 x 1333 image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import memory_columns
from benchmarks.workload import (
    OURS,
    REFERENCE,
    TORCHVISION,
    Options,
    Verdict,
    Workload,
    case,
    close,
    close_products,
    optional,
    torchvision_ops,
)
from fastvision import ops, reference
from fastvision.testing import Sample, data
from fastvision.testing.cases.masks import mask_head, probabilities

IMAGE = (800, 1333)
OBJECTS = 100
THREE_LAYERS = "torch's three layers"
COMPILED = "the three layers compiled"
PER_BOX = "grid_sample per box"  # as Detectron2 pastes on the CPU

_Contenders = dict[str, Callable[[], Any]]


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torchvision and a paste in Detectron2's way, on the CPU."""
    heads = torchvision_ops() and optional("torchvision.models.detection.roi_heads", "torchvision")
    masks, boxes = probabilities(OBJECTS, 28).to(options.device), data.rpn_boxes(OBJECTS, *IMAGE).to(options.device)
    yield _paste_as_torchvision(masks, boxes, heads, options)
    yield _paste_as_detectron2(masks, boxes, options)
    if not options.cuda:
        yield _run_lengths(masks, boxes, heads)
    yield _boxes(masks, boxes, options)
    yield _keypoints(heads, options)
    for layout in (torch.contiguous_format, torch.channels_last):
        yield _head(layout, options)


def _paste_as_torchvision(masks: Tensor, boxes: Tensor, heads: Any, options: Options) -> Workload:
    contenders: _Contenders = {OURS: lambda: ops.paste_masks(masks, boxes, IMAGE)}
    if heads:
        contenders[TORCHVISION] = lambda: heads.paste_masks_in_image(masks[:, None], boxes, IMAGE)[:, 0] > 0.5
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.masks.paste_masks(masks, boxes, IMAGE)
    work = case("paste_masks").work(Sample("", (masks, boxes, IMAGE)))
    targets: dict[str, float] = {} if options.cuda else {TORCHVISION: 50}
    return Workload("masks", "paste_masks 100 x 28^2 into 800 x 1333", contenders, _nearly_all_equal, work, targets)


def _paste_as_detectron2(masks: Tensor, boxes: Tensor, options: Options) -> Workload:
    contenders: _Contenders = {
        OURS: lambda: ops.paste_masks(masks, boxes, IMAGE, rule="detectron2"),
        PER_BOX: lambda: _per_box(masks, boxes),
    }
    work = case("paste_masks").work(Sample("", (masks, boxes, IMAGE)))
    targets: dict[str, float] = {} if options.cuda else {PER_BOX: 12}
    name = "paste_masks, Detectron2's rule"
    return Workload("masks", name, contenders, _nearly_all_equal, work, targets)


def _per_box(masks: Tensor, boxes: Tensor) -> Tensor:
    """Each mask sampled at the pixels of its own box, one mask at a time."""
    height, width = IMAGE
    out = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    for mask, (x0, y0, x1, y1), image in zip(masks, boxes.tolist(), out, strict=True):
        left, top = max(int(x0) - 1, 0), max(int(y0) - 1, 0)
        right, bottom = min(int(x1) + 2, width), min(int(y1) + 2, height)
        x = (torch.arange(left, right, device=masks.device) + 0.5 - x0) / (x1 - x0) * 2 - 1
        y = (torch.arange(top, bottom, device=masks.device) + 0.5 - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
        image[top:bottom, left:right] = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5
    return out


def _run_lengths(masks: Tensor, boxes: Tensor, heads: Any) -> Workload:
    """To COCO's text. torchvision's masks go through pycocotools, as its users send them."""
    contenders: _Contenders = {OURS: lambda: ops.paste_masks_rle(masks, boxes, IMAGE)}
    coco = optional("pycocotools.mask", "pycocotools")
    if coco and heads:

        def encode() -> Any:
            pasted = heads.paste_masks_in_image(masks[:, None], boxes, IMAGE)[:, 0] > 0.5
            return coco.encode(pasted.permute(1, 2, 0).numpy().astype("uint8", order="F"))

        contenders["torchvision + pycocotools"] = encode
    if coco:

        def dense() -> Any:
            pasted = ops.paste_masks(masks, boxes, IMAGE).transpose(1, 2).contiguous().view(torch.uint8)
            return coco.encode(pasted.numpy().transpose(2, 1, 0))

        contenders["paste_masks + pycocotools"] = dense
    return Workload("masks", "paste_masks_rle", contenders, _nearly_all_texts)


def _boxes(masks: Tensor, boxes: Tensor, options: Options) -> Workload:
    pasted = ops.paste_masks(masks, boxes, IMAGE)
    contenders: _Contenders = {OURS: lambda: ops.masks_to_boxes(pasted)}
    torchvision = torchvision_ops()
    if torchvision:
        contenders[TORCHVISION] = lambda: torchvision.masks_to_boxes(pasted)
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.masks.masks_to_boxes(pasted)
    work = case("masks_to_boxes").work(Sample("", (pasted,)))
    return Workload("masks", "masks_to_boxes 100 x 800 x 1333", contenders, close(0, 0), work)


def _keypoints(heads: Any, options: Options) -> Workload:
    """17 joints of 50 people."""
    maps = torch.randn(50, 17, 56, 56, generator=data.generator(1)).to(options.device)
    rois = data.rpn_boxes(50, *IMAGE, seed=3).to(options.device)
    contenders: _Contenders = {OURS: lambda: ops.heatmaps_to_keypoints(maps, rois)}
    if heads:
        contenders[TORCHVISION] = lambda: heads.heatmaps_to_keypoints(maps, rois)
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.masks.heatmaps_to_keypoints(maps, rois)
    targets: dict[str, float] = {} if options.cuda else {TORCHVISION: 5}
    name = "heatmaps_to_keypoints, 50 people"
    work = case("heatmaps_to_keypoints").work(Sample("", (maps, rois)))
    return Workload("masks", name, contenders, close(1e-4, 1e-4), work, targets)


def _head(layout: torch.memory_format, options: Options) -> Workload:
    """The tail of Mask R-CNN's mask head, classes of COCO with the background."""
    inputs = tuple(t.to(options.device) for t in mask_head(OBJECTS, 256, 256, 91, (14, 14)))
    head = (inputs[0].to(memory_format=layout), *inputs[1:])
    contenders: _Contenders = {OURS: lambda: ops.mask_logits(*head), THREE_LAYERS: lambda: _three_layers(*head)}
    if options.reference(small=False):
        compiled = torch.compile(_three_layers, dynamic=False)
        contenders[COMPILED] = lambda: compiled(*head)
    work = case("mask_logits").work(Sample("", head))
    targets: dict[str, float] = {} if options.cuda else {THREE_LAYERS: 3}
    columns = memory_columns(contenders[OURS], cuda=options.cuda)
    name = f"mask_logits 100 x 256 x 14^2 {'channels_last' if layout == torch.channels_last else 'NCHW'}"
    return Workload("masks", name, contenders, close_products(options, 1e-4), work, targets, columns)


def _three_layers(
    features: Tensor, weight: Tensor, bias: Tensor, class_weight: Tensor, class_bias: Tensor, labels: Tensor
) -> Tensor:
    hidden = F.conv_transpose2d(features, weight, bias, stride=2).relu_()
    maps = F.conv2d(hidden, class_weight[:, :, None, None], class_bias)
    return maps[torch.arange(len(labels), device=labels.device), labels]


def _nearly_all_equal(label: str, theirs: Tensor, ours: Tensor) -> Verdict:
    """A number that is the threshold to the last places may fall on either side of it."""
    wrong = int((theirs != ours).sum())
    return Verdict(f"{wrong} of {ours.numel()} pixels differ" if wrong else "equal", wrong <= ours.numel() // 1_000_000)


def _nearly_all_texts(label: str, theirs: Any, ours: Any) -> Verdict:
    wrong = sum(a["counts"] != b["counts"] for a, b in zip(theirs, ours, strict=True))
    return Verdict(f"{wrong} of {len(ours)} texts differ" if wrong else "equal", wrong <= len(ours) // 10)
