"""What fastvision does for models that exist: ``python -m examples.demo`` from the root of the repository.

1. finds the face in a photograph with MTCNN on fastvision's ops (``demo/astronaut_faces.png``);
2. runs facenet-pytorch's own MTCNN class unchanged, without and with ``fastvision.patch("torchvision")``;
3. does the same with torchvision's Faster R-CNN, and times what is not its backbone.

Every comparison is an assertion: the demo fails if patching changes a result. Needs torchvision, scikit-image, pillow
and facenet-pytorch (installed without its pins on torch), and a package index, or a warm cache, for MTCNN's weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import facenet_pytorch
import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import fastvision
from fastvision.cli.detect import describe, draw
from fastvision.models import MTCNN

OUTPUT = Path("demo")
TOLERANCE = 1e-4
RUNS = 7


def main() -> None:
    photo = skimage.data.astronaut()
    OUTPUT.mkdir(exist_ok=True)
    find_faces(photo)
    patch_facenet(photo)
    patch_faster_rcnn(photo)


def find_faces(photo: np.ndarray) -> None:
    print("MTCNN on fastvision.ops")
    model = MTCNN()
    image = torch.from_numpy(photo).permute(2, 0, 1)
    model(image)  # warm-up
    timings: dict[str, float] = {}
    faces = model(image, timings=timings)
    assert len(faces["boxes"]) == 1, faces
    path = OUTPUT / "astronaut_faces.png"
    draw(Image.fromarray(photo), faces).save(path)
    print(f"{describe(faces, timings)}\n  written to {path}\n")


def patch_facenet(photo: np.ndarray) -> None:
    print("facenet_pytorch.MTCNN, the class as it is")
    model = facenet_pytorch.MTCNN(keep_all=True)

    def detect() -> list[np.ndarray]:
        return [np.asarray(part, dtype=np.float64) for part in model.detect(photo, landmarks=True)]

    before, after, times = compare(detect)
    difference = max(float(np.abs(b - a).max()) for b, a in zip(before, after, strict=True))
    print(f"  boxes {np.round(after[0], 1).tolist()}")
    print(f"  largest difference when patched: {difference:.1e}")
    assert difference <= TOLERANCE, "patching changed facenet_pytorch.MTCNN's result"
    report({"whole": [(b, a) for b, a in times]})


def patch_faster_rcnn(photo: np.ndarray) -> None:
    print("torchvision's fasterrcnn_resnet50_fpn, seeded random weights")
    image = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    model = faster_rcnn(image)
    clocks = {"backbone": Clock(model.backbone), "rpn": Clock(model.rpn), "roi_heads": Clock(model.roi_heads)}
    # layers within rpn and roi_heads, which no patch touches
    layers = [Clock(m) for m in (model.rpn.head, model.roi_heads.box_head, model.roi_heads.box_predictor)]
    samples: list[tuple[float, float, float]] = []

    @torch.no_grad()
    def detect() -> dict[str, Tensor]:
        start = time.perf_counter()
        detections: dict[str, Tensor] = model([image])[0]
        total = time.perf_counter() - start
        heads = clocks["rpn"].seconds + clocks["roi_heads"].seconds
        samples.append((total - clocks["backbone"].seconds, heads, heads - sum(c.seconds for c in layers)))
        return detections

    before, after, _ = compare(detect)
    check_detections(before, after)
    pairs = list(zip(samples[2::2], samples[3::2], strict=True))  # the first two were warm-up
    names = ("all but the backbone", "rpn + roi_heads", "rpn + roi_heads less their layers")
    report({name: [(b[i], a[i]) for b, a in pairs] for i, name in enumerate(names)})


def faster_rcnn(image: Tensor) -> Any:
    """Seeded random weights whose detections mean something.

    The weights are drawn by the model's own initialisers (Kaiming). What makes them usable is BatchNorm: with its
    default statistics (mean 0, variance 1) activations double from block to block, so one pass over the photo in
    training mode sets the statistics first. The class layer's initial weights make 91 nearly equal scores, whose order
    rounding would decide; ten times larger, they set the detections apart.
    """
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, box_score_thresh=0.01)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of the one pass, not a moving average
    with torch.no_grad():
        model.backbone(model.transform([image])[0].tensors)
        model.roi_heads.box_predictor.cls_score.weight.mul_(10)
    return model.eval()


def check_detections(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    counts = len(before["boxes"]), len(after["boxes"])
    print(f"  {counts[0]} detections of {len(before['labels'].unique())} classes, {counts[1]} when patched")
    assert counts[0] == counts[1] > 10, "too few detections, or patching changed their number"
    assert all(bool(part.isfinite().all()) for part in before.values()), "detections are not finite"
    assert torch.equal(before["labels"], after["labels"]), "patching changed a label"
    for part in ("boxes", "scores"):
        difference = float((before[part] - after[part]).abs().max())
        print(f"  largest difference of {part} when patched: {difference:.1e}")
        assert difference <= TOLERANCE, f"patching changed the {part}"


class Clock:
    """Seconds of a module's latest call."""

    def __init__(self, module: nn.Module) -> None:
        self.start = self.seconds = 0.0
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self.start = time.perf_counter()

    def _end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def compare(run: Callable[[], Any]) -> tuple[Any, Any, list[tuple[float, float]]]:
    """Results without and with the patch, and seconds of interleaved runs after a warm-up of each."""
    times: list[tuple[float, float]] = []
    for _ in range(RUNS + 1):
        with timed() as plain:
            before = run()
        with fastvision.patch("torchvision"), timed() as patched:
            after = run()
        times.append((plain[0], patched[0]))
    return before, after, times[1:]


@contextmanager
def timed() -> Iterator[list[float]]:
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


def report(times: dict[str, list[tuple[float, float]]]) -> None:
    """Median and range of each pair's ratio: both runs of a pair saw the same machine."""
    for name, pairs in times.items():
        before, after = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
        ratios = sorted(b / a for b, a in pairs)
        print(
            f"  {name}: {before:.1f} ms before, {after:.1f} ms patched: {statistics.median(ratios):.2f} x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}, {len(pairs)} pairs)"
        )
    print()


if __name__ == "__main__":
    main()
