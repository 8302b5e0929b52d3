"""One-call post-processing of detectors, from the raw maps of the last convolution to boxes, against the pipelines it
replaces: torchvision's own modules, their permuted copies of the maps and their anchors included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.workload import OURS, REFERENCE, TORCHVISION, Options, Workload, close, optional, torchvision_ops
from fastvision import ops, reference
from fastvision.testing import Work, data

IMAGE = (800, 1344)
CLASSES = 91  # COCO as torchvision counts it

_Contenders = dict[str, Callable[[], Any]]
_nearly = close(1e-5, 2e-3)  # coordinates reach 1344, where a unit in the last place is 1.2e-4


def workloads(options: Options) -> Iterator[Workload]:
    """Targets against torchvision, on the CPU."""
    for images in (1, 2):
        yield _rpn(images, options)
    yield _retinanet(options)
    yield _ssd(options)
    yield _yolo(options)


def _maps(
    images: int, channels: int, grids: Sequence[Sequence[int]], mean: float, scale: float, seed: int, options: Options
) -> list[Tensor]:
    g = data.generator(seed)
    made = (torch.randn(images, channels, h, w, generator=g) * scale + mean for h, w in grids)
    return [m.to(options.device) for m in made]


def _pyramid(first: int, levels: int = 5) -> list[tuple[int, int]]:
    """Rows and columns of levels whose strides are ``first``, twice that, and so on."""
    return [(-(-IMAGE[0] // (first << k)), -(-IMAGE[1] // (first << k))) for k in range(levels)]


def _image_list(images: int, size: Sequence[int], options: Options) -> Any:
    """What torchvision calls an ImageList, without pixels."""
    return SimpleNamespace(
        tensors=torch.empty(images, 3, *size, device="meta"), image_sizes=[tuple(size)] * images, device=options.device
    )


def _generator(sizes: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """(ours, torchvision's or None)"""
    arguments = (tuple(map(tuple, sizes)), ((0.5, 1.0, 2.0),) * len(sizes))
    theirs = torchvision_ops() and optional("torchvision.models.detection.anchor_utils", "torchvision")
    return ops.AnchorGenerator(*arguments), theirs.AnchorGenerator(*arguments) if theirs else None


def _reading(*maps: Sequence[Tensor]) -> Work:
    """Every logit read once; the few numbers of the survivors are nothing beside them."""
    return Work(sum(m.numel() * m.element_size() for level in maps for m in level), 0)


def _rpn(images: int, options: Options) -> Workload:
    """A Faster R-CNN with a feature pyramid, as torchvision sets it up for inference."""
    ours, theirs = _generator([(32,), (64,), (128,), (256,), (512,)])
    grids, sizes = _pyramid(4), [IMAGE] * images
    objectness, deltas = _maps(images, 3, grids, -2.0, 1.5, 0, options), _maps(images, 12, grids, 0.0, 0.3, 1, options)
    arguments = (objectness, deltas, ours.cell_anchors, ours.strides(IMAGE, objectness), sizes)
    contenders: _Contenders = {OURS: lambda: ops.rpn_proposals(*arguments)[0]}
    if theirs:
        rpn: Any = optional("torchvision.models.detection.rpn", "torchvision")
        top = {"training": 1000, "testing": 1000}
        network = rpn.RegionProposalNetwork(
            theirs, lambda _: (objectness, deltas), 0.7, 0.3, 256, 0.5, top, top, 0.7
        ).eval()
        batch, features = _image_list(images, IMAGE, options), {str(k): m for k, m in enumerate(objectness)}
        contenders[TORCHVISION] = torch.no_grad()(lambda: network(batch, features)[0])
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.proposals.rpn_proposals(*arguments)[0]
    targets: dict[str, float] = {} if options.cuda else {TORCHVISION: 7}
    name = f"RPN, 268k anchors, {images} image{'s' * (images > 1)}"
    return Workload("proposals", name, contenders, _nearly, _reading(objectness), targets)


def _retinanet(options: Options) -> Workload:
    """18 million logits around the prior that training begins with: a few thousand exceed the threshold."""
    sizes = [tuple(int(s * 2 ** (k / 3)) for k in range(3)) for s in (32, 64, 128, 256, 512)]
    ours, theirs = _generator(sizes)
    grids = _pyramid(8)
    logits = _maps(1, 9 * CLASSES, grids, -6.0, 1.5, 2, options)
    deltas = _maps(1, 36, grids, 0.0, 0.3, 3, options)
    arguments = (logits, deltas, ours.cell_anchors, ours.strides(IMAGE, logits), [IMAGE])
    contenders: _Contenders = {OURS: lambda: ops.retinanet_detections(*arguments)}
    if theirs:
        retinanet: Any = optional("torchvision.models.detection.retinanet", "torchvision")
        settings = _settings(0.05, 1000, 0.5, 300, (1.0, 1.0, 1.0, 1.0))
        batch, each = _image_list(1, IMAGE, options), [h * w * 9 for h, w in grids]

        def postprocess() -> Any:
            anchors = [a.split(each) for a in theirs(batch, logits)]
            outputs = {"cls_logits": _flat(logits, CLASSES), "bbox_regression": _flat(deltas, 4)}
            return retinanet.RetinaNet.postprocess_detections(settings, outputs, anchors, [IMAGE])

        contenders[TORCHVISION] = postprocess
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.proposals.retinanet_detections(*arguments)
    targets: dict[str, float] = {} if options.cuda else {TORCHVISION: 15}
    return Workload("proposals", "RetinaNet, 91 classes", contenders, _nearly, _reading(logits), targets)


def _ssd(options: Options) -> Workload:
    """SSD300: 8732 default boxes, which an image size decides once and for all, 91 classes."""
    shapes = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    settings = {"scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05], "steps": [8, 16, 32, 64, 100, 300]}
    ours = ops.DefaultBoxGenerator(shapes, **settings)
    grids, each = [(n, n) for n in (38, 19, 10, 5, 3, 1)], ours.num_anchors_per_location()
    logits, deltas = [], []
    for k, (boxes, grid) in enumerate(zip(each, grids, strict=True)):
        logits += _maps(1, boxes * CLASSES, [grid], 0.0, 1.2, k, options)
        deltas += _maps(1, boxes * 4, [grid], 0.0, 1.0, 9 + k, options)
    for level, boxes in zip(logits, each, strict=True):  # most boxes show nothing
        level.view(1, boxes, CLASSES, *level.shape[2:])[:, :, 0] += 4
    batch = _image_list(1, (300, 300), options)
    anchors = ours(batch, logits)
    size = [(300, 300)]
    contenders: _Contenders = {OURS: lambda: ops.ssd_detections(logits, deltas, anchors[0], size, num_classes=CLASSES)}
    detection = torchvision_ops() and optional("torchvision.models.detection.ssd", "torchvision")
    if detection:
        configuration = _settings(0.01, 400, 0.45, 200, (10.0, 10.0, 5.0, 5.0))

        def postprocess() -> Any:
            outputs = {
                "cls_logits": torch.cat(_flat(logits, CLASSES), 1),
                "bbox_regression": torch.cat(_flat(deltas, 4), 1),
            }
            return detection.SSD.postprocess_detections(configuration, outputs, anchors, size)

        contenders[TORCHVISION] = postprocess
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.proposals.ssd_detections(
            logits, deltas, anchors[0], size, num_classes=CLASSES
        )
    targets: dict[str, float] = {} if options.cuda else {TORCHVISION: 15}
    return Workload("proposals", "SSD300, 91 classes", contenders, _nearly, _reading(logits), targets)


def _yolo(options: Options) -> Workload:
    """The dense head at 640 x 640: 8400 cells, 80 classes, 16 bins a side. torchvision has no YOLO: its part is the
    suppression, behind plain PyTorch."""
    outputs = _maps(1, 64 + 80, [(80, 80), (40, 40), (20, 20)], 0.0, 1.0, 5, options)
    for level in outputs:
        level[:, 64:] = level[:, 64:] * 1.2 - 4.5
    size = [(640, 640)]
    contenders: _Contenders = {OURS: lambda: ops.yolo_detections(outputs, size, num_classes=80)}
    torchvision = torchvision_ops()
    if torchvision:
        contenders[TORCHVISION] = lambda: _plain_yolo(outputs, torchvision.batched_nms)
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.proposals.yolo_detections(outputs, size, num_classes=80)
    return Workload("proposals", "YOLO dense head, 80 classes", contenders, _nearly, _reading(outputs))


def _plain_yolo(outputs: Sequence[Tensor], suppress: Callable[..., Tensor]) -> list[dict[str, Tensor]]:
    """Decodes every cell, then thresholds: one image, one label a cell."""
    boxes, scores, labels = [], [], []
    steps = torch.arange(16.0, device=outputs[0].device)
    for output, stride in zip(outputs, (8, 16, 32), strict=True):
        rows, columns = output.shape[2:]
        bins = output[0, :64].reshape(4, 16, -1).softmax(1)
        left, top, right, bottom = (bins * steps[:, None]).sum(1).unbind(0)
        cell = torch.arange(rows * columns, device=output.device)
        x, y = cell % columns + 0.5, cell // columns + 0.5
        boxes.append(torch.stack([x - left, y - top, x + right, y + bottom], -1).mul(stride).clamp(0, 640))
        score, label = output[0, 64:].sigmoid().flatten(1).max(0)
        scores.append(score)
        labels.append(label)
    box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    above = score > 0.25
    box, score, label = box[above], score[above], label[above]
    keep = suppress(box, score, label, 0.45)[:300]
    return [{"boxes": box[keep], "scores": score[keep], "labels": label[keep]}]


def _flat(maps: Sequence[Tensor], numbers: int) -> list[Tensor]:
    """[N, A numbers, H, W] of each level -> [N, H W A, numbers], as the heads of torchvision's models give it."""
    return [m.unflatten(1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3) for m in maps]


def _settings(threshold: float, top_k: int, nms: float, detections: int, weights: Sequence[float]) -> Any:
    """What torchvision's post-processing methods read of their model."""
    utils: Any = optional("torchvision.models.detection._utils", "torchvision")
    return SimpleNamespace(
        score_thresh=threshold,
        topk_candidates=top_k,
        nms_thresh=nms,
        detections_per_img=detections,
        box_coder=utils.BoxCoder(weights=tuple(weights)),
    )
