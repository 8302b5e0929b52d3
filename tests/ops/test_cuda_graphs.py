"""Padded ops are captured in a CUDA graph, and follow new inputs when it is replayed; others refuse to be captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from fastvision import _library, ops
from fastvision.testing import data

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not (torch.cuda.is_available() and _library.build_info().get("cuda")),
        reason="needs an NVIDIA GPU and a build with CUDA kernels",
    ),
]
CUDA = torch.device("cuda")


def nms_inputs(seed: int) -> list[Tensor]:
    boxes = torch.stack([data.clustered_boxes(500, 30, 300.0, seed=seed + b) for b in range(3)])
    return [boxes.to(CUDA), torch.stack([data.scores(500, seed=seed + b) for b in range(3)]).to(CUDA)]


def maps(*channels: int) -> Callable[[int], list[Tensor]]:
    def make(seed: int) -> list[Tensor]:
        g = data.generator(seed)
        return [torch.randn(2, c, side, side, generator=g).to(CUDA) for c in channels for side in (16, 8)]

    return make


SIZES, STRIDES = [(128, 128), (100, 120)], [(8, 8), (16, 16)]


def anchors() -> list[Tensor]:
    return [torch.tensor([[-8.0, -8, 8, 8], [-11, -5, 11, 5]], device=CUDA) * scale for scale in (1, 2)]


def default_boxes() -> Tensor:
    return data.random_boxes(2 * (16 * 16 + 8 * 8), 100.0, 40.0).to(CUDA)


def padded_calls() -> dict[str, tuple[Callable[[int], list[Tensor]], Callable[..., Any]]]:
    cells, boxes, common = anchors(), default_boxes(), {"padded": True}
    return {
        "nms_padded": (nms_inputs, lambda b, s: ops.nms_padded(b, s, 0.5, 40, score_threshold=0.1)),
        "rpn": (maps(2, 8), lambda *m: ops.rpn_proposals(m[:2], m[2:], cells, STRIDES, SIZES, **common)),
        "retinanet": (maps(6, 8), lambda *m: ops.retinanet_detections(m[:2], m[2:], cells, STRIDES, SIZES, **common)),
        "ssd": (maps(6, 8), lambda *m: ops.ssd_detections(m[:2], m[2:], boxes, SIZES, num_classes=3, **common)),
        "yolo": (maps(4 * 8 + 3), lambda *m: ops.yolo_detections(m, SIZES, num_classes=3, strides=(8, 16), **common)),
        "yolo grid": (
            lambda seed: [torch.rand(2, 7, 7, 13, generator=data.generator(seed)).to(CUDA)],
            lambda grid: ops.yolo_detections(grid, SIZES, num_classes=3, **common),
        ),
    }


def recorded(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of the call, and the outputs that each replay writes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # what is made once is made before
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph, outputs


@pytest.mark.parametrize("name", ["nms_padded", "rpn", "retinanet", "ssd", "yolo", "yolo grid"])
def test_padded_ops_are_captured(name: str) -> None:
    make, call = padded_calls()[name]
    inputs = make(0)
    graph, captured = recorded(lambda: call(*inputs))
    for seed in (0, 5):
        fresh = make(seed)
        for old, new in zip(inputs, fresh, strict=True):
            old.copy_(new)
        graph.replay()
        for a, b in zip(tree_flatten(captured)[0], tree_flatten(call(*fresh))[0], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("op", ["nms", "batched_nms", "soft_nms", "nms_rotated"])
def test_ops_whose_size_depends_on_data_say_so(op: str) -> None:
    boxes, scores = nms_inputs(0)[0][0], nms_inputs(0)[1][0]
    rotated = torch.cat([boxes, torch.zeros_like(boxes[:, :1])], 1)
    calls: dict[str, Callable[[], Any]] = {
        "nms": lambda: ops.nms(boxes, scores, 0.5),
        "batched_nms": lambda: ops.batched_nms(boxes, scores, torch.zeros_like(scores).long(), 0.5),
        "soft_nms": lambda: ops.soft_nms(boxes, scores),
        "nms_rotated": lambda: ops.nms_rotated(rotated, scores, 0.5),
    }
    with (
        pytest.raises(RuntimeError, match="cannot be captured in a CUDA graph"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        calls[op]()
    assert len(ops.nms(boxes, scores, 0.5)) > 0  # nothing is left behind


def test_a_style_loss_and_its_gradient_are_captured() -> None:
    features = [data.feature_map(1, c, 12, 11, seed=c).to(CUDA).requires_grad_() for c in (9, 70)]
    targets = [torch.eye(c, device=CUDA) for c in (9, 70)]

    def both() -> tuple[Tensor, ...]:
        loss = ops.style_loss(features, targets)
        return loss.detach(), *torch.autograd.grad(loss, features)

    graph, captured = recorded(both)
    for factor in (1.0, 0.5, 2.0):
        with torch.no_grad():
            features[0].mul_(factor)
        graph.replay()
        assert all(map(torch.equal, captured, both()))
