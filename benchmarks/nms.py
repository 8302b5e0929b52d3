"""Non-maximum suppression: random, clustered and RPN-like boxes, from call overhead to ten thousand boxes.

``K``, the number of boxes kept, decides what an implementation costs; it is printed with every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import nms_forms
from benchmarks.workload import (
    OURS,
    REFERENCE,
    TORCHVISION,
    Options,
    Verdict,
    Workload,
    case,
    optional,
    torchvision_ops,
)
from fastvision import ops, reference
from fastvision.testing import Sample, data

THRESHOLD = 0.5
OPENVINO, OPENCV = "OpenVINO", "OpenCV dnn"

# These compute the overlap in float64, or from width and height, and so decide otherwise where it is next to the
# threshold; what they keep may differ in a few boxes.
_ROUNDS_DIFFERENTLY = frozenset({OPENCV, "powerboxes rtree", "lsnms"})
_TOLERATED_SHARE = 0.005

_Contenders = dict[str, Callable[[], Any]]


def workloads(options: Options) -> Iterator[Workload]:
    """Targets: algorithms measured on two AVX2 cores; those of a GPU on an H100."""
    # sides up to 225 pixels on a 1000 x 1000 image keep about 820 of 1k, 2540 of 4k and 5000 of 10k boxes
    sets: tuple[tuple[str, Tensor, float | None, float | None], ...] = (
        # name, boxes, target on the CPU, target on a GPU: against torchvision
        ("random 10 (call overhead)", data.random_boxes(10, 1000.0, 225.0), 1, None),
        ("random 100", data.random_boxes(100, 1000.0, 225.0), None, None),
        ("random 1k", data.random_boxes(1000, 1000.0, 225.0), 25, 5),
        ("random 4k", data.random_boxes(4000, 1000.0, 225.0), 75, None),
        ("random 10k", data.random_boxes(10_000, 1000.0, 225.0), 150, 15),
        ("clustered 10k", _clustered(10_000), 15, None),
        ("RPN-like 4k", data.rpn_boxes(4000), None, None),
        ("aerial-like 100k", aerial_boxes(100_000), None, None),
    )
    for name, boxes, cpu_target, gpu_target in sets:
        yield _nms(name, boxes, gpu_target if options.cuda else cpu_target, options)
    yield _batched(
        "batched, 80 classes, 10k", data.random_boxes(10_000, 1000.0, 225.0), 80, None if options.cuda else 30, options
    )
    yield from nms_forms.workloads(options)


def aerial_boxes(count: int) -> Tensor:
    """[count, 4] of a satellite scene of 16k x 16k pixels: small objects, each found ten times over."""
    return data.clustered_boxes(count, count // 10, 16_000.0) + torch.tensor([0.0, 0.0, 10.0, 10.0])


def _clustered(count: int) -> Tensor:
    """[count, 4] around 95 objects, grown so that the jitter of 3 pixels is small against every box: K about 95."""
    return data.clustered_boxes(count, 95) + 15 * torch.tensor([-1.0, -1.0, 1.0, 1.0])


def _nms(name: str, boxes: Tensor, target: float | None, options: Options) -> Workload:
    boxes, scores = boxes.to(options.device), data.scores(len(boxes)).to(options.device)
    contenders: _Contenders = {OURS: lambda: ops.nms(boxes, scores, THRESHOLD)}
    torchvision = torchvision_ops()
    if torchvision:
        contenders[TORCHVISION] = lambda: torchvision.nms(boxes, scores, THRESHOLD)
    if not options.cuda:
        contenders |= _libraries(boxes, scores)
    if options.reference(small=len(boxes) <= 1000):
        contenders[REFERENCE] = lambda: reference.nms.nms(boxes, scores, THRESHOLD)
    # an inference request costs OpenVINO tens of microseconds: a target there would say nothing about the op
    targets = {TORCHVISION: target, OPENVINO: 3.0 if len(boxes) >= 1000 else None}
    return _workload(name, contenders, Sample(name, (boxes, scores, THRESHOLD)), targets)


def _batched(name: str, boxes: Tensor, classes: int, target: float | None, options: Options) -> Workload:
    ids = torch.randint(classes, (len(boxes),), generator=data.generator(7)).to(options.device)
    boxes, scores = boxes.to(options.device), data.scores(len(boxes)).to(options.device)
    contenders: _Contenders = {OURS: lambda: ops.batched_nms(boxes, scores, ids, THRESHOLD)}
    torchvision = torchvision_ops()
    if torchvision:
        contenders[TORCHVISION] = lambda: torchvision.batched_nms(boxes, scores, ids, THRESHOLD)
    if not options.cuda:
        contenders |= _batched_libraries(boxes, scores, ids)
    if options.reference(small=False):
        contenders[REFERENCE] = lambda: reference.nms.batched_nms(boxes, scores, ids, THRESHOLD)
    return _workload(name, contenders, Sample(name, (boxes, scores, ids, THRESHOLD)), {TORCHVISION: target})


def _workload(name: str, contenders: _Contenders, sample: Sample, targets: Mapping[str, float | None]) -> Workload:
    return Workload(
        "nms",
        name,
        contenders,
        same_indices,
        case("nms").work(sample),
        {label: target for label, target in targets.items() if target is not None},
        lambda kept: {"K": len(kept)},
    )


def same_indices(label: str, theirs: Any, ours: Tensor) -> Verdict:
    """The same boxes in the same order; from libraries that round otherwise, nearly the same boxes."""
    kept = theirs if isinstance(theirs, Tensor) else torch.from_numpy(np.asarray(theirs).astype(np.int64))
    kept, expected = kept.cpu().flatten(), ours.cpu()
    if torch.equal(kept, expected):
        return Verdict("equal")
    loose = label in _ROUNDS_DIFFERENTLY
    different = len(set(kept.tolist()) ^ set(expected.tolist()))
    if different == 0:
        return Verdict("same set, other order", loose)
    return Verdict(f"{different} of {len(expected)} differ", loose and different <= _TOLERATED_SHARE * len(expected))


def _libraries(boxes: Tensor, scores: Tensor) -> _Contenders:
    """Inputs are in each library's preferred form before the clock starts; results stay in theirs."""
    found: _Contenders = {}
    b, s = boxes.numpy(), scores.numpy()
    openvino = optional("openvino")
    if openvino:
        found[OPENVINO] = _openvino(openvino, b, s)
    powerboxes = optional("powerboxes")
    if powerboxes:
        double = s.astype(np.float64)
        found["powerboxes rtree"] = lambda: powerboxes.rtree_nms(b, double, THRESHOLD, 0.0)
    lsnms = optional("lsnms")
    if lsnms:
        found["lsnms"] = lambda: lsnms.nms(b, s, iou_threshold=THRESHOLD)
    cv2 = optional("cv2", "opencv-python-headless")
    if cv2:
        corner_and_size = _corner_and_size(b)
        found[OPENCV] = lambda: cv2.dnn.NMSBoxes(corner_and_size, s, 0.0, THRESHOLD)
    return found


def _batched_libraries(boxes: Tensor, scores: Tensor, ids: Tensor) -> _Contenders:
    """OpenVINO's takes a score per box and class instead of a class per box, which is another problem."""
    found: _Contenders = {}
    b, s, c = boxes.numpy(), scores.numpy(), ids.numpy()
    lsnms = optional("lsnms")
    if lsnms:
        found["lsnms"] = lambda: lsnms.nms(b, s, iou_threshold=THRESHOLD, class_ids=c)
    cv2 = optional("cv2", "opencv-python-headless")
    if cv2:
        corner_and_size, c32 = _corner_and_size(b), c.astype(np.int32)
        found[OPENCV] = lambda: cv2.dnn.NMSBoxesBatched(corner_and_size, s, c32, 0.0, THRESHOLD)
    return found


def _corner_and_size(boxes: Any) -> Any:
    """[N, 4] of (x, y, width, height) in float64, as OpenCV's Rect2d has them."""
    double = boxes.astype(np.float64)
    return np.concatenate([double[:, :2], double[:, 2:] - double[:, :2]], axis=1)


def _openvino(openvino: Any, boxes: Any, scores: Any) -> Callable[[], Any]:
    """A model of one NonMaxSuppression, compiled for this shape; a call shares its inputs and outputs."""
    opset: Any = optional("openvino.opset9", "openvino")
    n = len(boxes)
    parameters = [opset.parameter([1, n, 4], np.float32), opset.parameter([1, 1, n], np.float32)]
    limits = [opset.constant(value) for value in (np.int64(n), np.float32(THRESHOLD), np.float32(0))]
    # corners may come as (y, x) or (x, y): the overlap is the same
    suppress = opset.non_max_suppression(*parameters, *limits, box_encoding="corner", sort_result_descending=True)
    model = openvino.Model(suppress.outputs(), parameters, "nms")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    inputs = {0: boxes[None], 1: scores[None, None]}

    def infer() -> Any:
        outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
        return outputs[0][: int(outputs[2][0]), 2]  # (image, class, box) of each one kept

    return infer
