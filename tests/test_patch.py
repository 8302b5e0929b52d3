"""``fastvision.patch("torchvision")``: what it reaches, what it leaves alone, and that undoing undoes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from data_requirements import require_module
from torch.utils._python_dispatch import TorchDispatchMode

import fastvision
from fastvision.testing import data


@pytest.fixture(scope="module")
def torchvision() -> Any:
    require_module("torchvision")
    return require_module("torchvision.models.detection") and sys.modules["torchvision"]


@pytest.fixture
def importer() -> Iterator[Any]:
    """Makes modules that import by name, as third parties do."""
    made: list[str] = []

    def make(name: str, source: str) -> ModuleType:
        module = ModuleType(name)
        sys.modules[name] = module
        made.append(name)
        exec(source, module.__dict__)
        return module

    yield make
    for name in made:
        del sys.modules[name]


class Namespaces(TorchDispatchMode):
    """Which libraries' ops ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.namespace)
        return func(*args, **(kwargs or {}))


def namespaces(call: Any, *args: Any, **kwargs: Any) -> set[str]:
    with Namespaces() as mode:
        call(*args, **kwargs)
    return mode.seen & {"fastvision", "torchvision"}


BOXES, SCORES = data.clustered_boxes(200), data.scores(200)
ROIS, MAP = data.random_rois(6, 2, 64, 64), data.feature_map(2, 3, 16, 16)


def test_reaches_every_road_to_a_function(torchvision: Any, importer: Any) -> None:
    by_name = importer("third_party", "from torchvision.ops.boxes import batched_nms as their_nms")
    original = torchvision.ops.batched_nms
    with fastvision.patch("torchvision"):
        late = importer("late_party", "from torchvision.ops import batched_nms, roi_align")
        assert torchvision.ops.batched_nms is not original
        assert torchvision.ops.boxes.batched_nms is torchvision.ops.batched_nms
        assert by_name.their_nms is torchvision.ops.batched_nms is late.batched_nms
        detection = torchvision.models.detection
        assert detection.roi_heads.roi_align is torchvision.ops.roi_align is torchvision.ops.poolers.roi_align
    assert by_name.their_nms is late.batched_nms is torchvision.ops.boxes.batched_nms is original
    assert late.roi_align is torchvision.ops.roi_align is not fastvision.ops.roi_align


@pytest.mark.skipif(not fastvision._library.LOADED, reason="the reference is made of torch's own ops")
def test_calls_arrive(torchvision: Any) -> None:
    ops = torchvision.ops
    idxs = torch.arange(200) % 3
    coder = torchvision.models.detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    existing, pooler = ops.RoIAlign(3, 0.25, 2), ops.MultiScaleRoIAlign(["0"], 3, 2)
    with fastvision.patch("torchvision"):
        assert namespaces(ops.nms, BOXES, SCORES, 0.5) == {"fastvision"}
        assert namespaces(ops.nms, boxes=BOXES, scores=SCORES, iou_threshold=0.5) == {"fastvision"}
        assert namespaces(ops.batched_nms, BOXES, SCORES, idxs, 0.5) == {"fastvision"}
        assert namespaces(ops.box_iou, BOXES, BOXES) == {"fastvision"}
        assert namespaces(ops.roi_align, MAP, ROIS, 3, 0.25) == {"fastvision"}
        assert namespaces(ops.roi_pool, MAP, ROIS, 3, 0.25) == {"fastvision"}
        assert namespaces(ops.ps_roi_align, MAP, ROIS, 1, 0.25) == {"fastvision"}
        assert namespaces(ops.PSRoIPool(1, 0.25), MAP, ROIS) == {"fastvision"}
        assert namespaces(existing, MAP, ROIS) == {"fastvision"}
        assert namespaces(pooler, {"0": MAP}, [BOXES[:3]], [(64, 64)]) == {"fastvision"}
        assert namespaces(coder.decode_single, torch.zeros(200, 4), BOXES) == {"fastvision"}
        assert namespaces(coder.encode_single, BOXES, BOXES) == {"fastvision"}
    assert namespaces(ops.nms, BOXES, SCORES, 0.5) == {"torchvision"}
    assert namespaces(existing, MAP, ROIS) == {"torchvision"}


def test_results_are_equal(torchvision: Any) -> None:
    ops = torchvision.ops
    coder = torchvision.models.detection._utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = torch.randn(200, 8, generator=data.generator()) * 3  # some beyond the clamp
    calls = {
        "nms": lambda: ops.nms(BOXES, SCORES, 0.5),
        "batched_nms": lambda: ops.batched_nms(BOXES, SCORES, torch.arange(200) % 3, 0.5),
        "box_iou": lambda: ops.box_iou(BOXES, BOXES + 1),
        "box_iou of another format": lambda: ops.box_iou(BOXES, BOXES + 1, fmt="xywh"),
        "box_iou of batches": lambda: ops.box_iou(BOXES[None], BOXES[None]),
        "roi_align": lambda: ops.roi_align(MAP, ROIS, 3, 0.25, 2, True),
        "roi_align of lists": lambda: ops.roi_align(MAP, [BOXES[:3] / 20, BOXES[3:4] / 20], output_size=(2, 3)),
        "MultiScaleRoIAlign": lambda: ops.MultiScaleRoIAlign(["a", "b"], 3, 2)(
            {"a": MAP, "b": MAP[:, :, ::2, ::2]}, [BOXES[:3] * 2, BOXES[3:5]], [(64, 64)]
        ),
        "decode": lambda: coder.decode_single(deltas, BOXES),
        "decode nothing": lambda: coder.decode_single(deltas[:0], BOXES[:0]),
        "encode": lambda: coder.encode_single(BOXES, BOXES + 3),
    }
    for name, call in calls.items():
        expected = call()
        with fastvision.patch("torchvision"):
            actual = call()
        torch.testing.assert_close(
            actual, expected, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_gradients_and_autocast(torchvision: Any) -> None:
    def gradient() -> torch.Tensor:
        features = MAP.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = torchvision.ops.roi_align(features.bfloat16(), ROIS, 3, 0.25, 2)
        assert pooled.dtype == torch.bfloat16
        pooled.float().square().sum().backward()
        return features.grad

    expected = gradient()
    with fastvision.patch("torchvision"):
        torch.testing.assert_close(gradient(), expected, rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, and tracing warns of constants
def test_traced_graphs_name_torchvisions_ops(torchvision: Any) -> None:
    with fastvision.patch("torchvision"):
        graph = torch.jit.trace(lambda b, s: torchvision.ops.nms(b, s, 0.5), (BOXES, SCORES)).graph
    assert "torchvision::nms" in str(graph) and "fastvision" not in str(graph)


def test_function_form_nesting_and_double_undo(torchvision: Any) -> None:
    original = torchvision.ops.nms
    outer = fastvision.patch("torchvision")
    patched = torchvision.ops.nms
    inner = fastvision.patch("torchvision")
    assert torchvision.ops.nms is patched is not original
    outer.undo()  # not in the order of a stack
    outer.undo()
    assert torchvision.ops.nms is patched
    with inner:
        assert "in force" in repr(inner)
    assert torchvision.ops.nms is original and "undone" in repr(inner)
    inner.undo()
    with pytest.raises(KeyError), fastvision.patch("torchvision"):
        raise KeyError
    assert torchvision.ops.nms is original


def test_modules_that_use_fastvision_keep_it(torchvision: Any, importer: Any) -> None:
    ours = importer("our_party", "from fastvision.ops import nms")
    with fastvision.patch("torchvision"):
        pass
    assert ours.nms is fastvision.ops.nms


@pytest.mark.parametrize("libraries", [("tensorflow",), ("torchvision", "tensorflow"), ()])
def test_unknown_library(libraries: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected libraries among 'torchvision'"):
        fastvision.patch(*libraries)
    assert not fastvision.interop.patching._active


def test_faster_rcnn_detects_the_same(torchvision: Any) -> None:
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, box_score_thresh=0.005
    )
    image = torch.rand(3, 200, 240, generator=data.generator())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        # random weights whose scores are apart, so that rounding does not decide their order: features of variance 1
        # (statistics from one pass), and class weights larger than the initial ones
        model.backbone(model.transform([image])[0].tensors)
        model.roi_heads.box_predictor.cls_score.weight.mul_(10)
        model.eval()
        (expected,) = model([image])
        with fastvision.patch("torchvision"):
            (actual,) = model([image])
    assert len(expected["boxes"]) == len(expected["scores"].unique()) == 100
    for part, value in expected.items():
        torch.testing.assert_close(actual[part], value, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not fastvision._library.LOADED, reason="the reference is made of torch's own ops")
def test_proposals_masks_and_keypoints_arrive(torchvision: Any) -> None:
    """Each call equal, and made of fastvision's ops where no gradient flows."""
    heads, detection = torchvision.models.detection.roi_heads, torchvision.models.detection
    g = data.generator(4)
    masks, maps = torch.rand(9, 1, 28, 28, generator=g), torch.rand(9, 4, 14, 14, generator=g)
    boxes, features = data.random_boxes(9, 60.0, 40.0), {"0": torch.randn(2, 8, 16, 16, generator=g)}
    images = detection.image_list.ImageList(torch.zeros(2, 3, 128, 128), [(128, 128), (100, 120)])
    network = proposal_network(detection)
    with torch.no_grad():
        network.head.cls_logits.weight.mul_(100)  # scores apart, so that rounding does not decide their order
    calls = {
        "paste": lambda: heads.paste_masks_in_image(masks, boxes, (70, 80)),
        "keypoints": lambda: heads.heatmaps_to_keypoints(maps, boxes),
        "keypoints of float64 maps": lambda: heads.heatmaps_to_keypoints(maps.double(), boxes),
        "masks_to_boxes": lambda: torchvision.ops.masks_to_boxes(masks[:, 0] > 0.9),
        "proposals": lambda: network(images, features)[0],
    }
    for name, call in calls.items():
        expected = call()
        with fastvision.patch("torchvision"):
            assert "fastvision" in namespaces(call), name
            torch.testing.assert_close(call(), expected, rtol=1e-4, atol=1e-4)
    with fastvision.patch("torchvision"):
        masks.requires_grad_()
        assert heads.paste_masks_in_image(masks, boxes, (70, 80)).requires_grad
        assert heads.paste_masks_in_image(masks, boxes, (70, 80), padding=2).shape == (9, 1, 70, 80)


def test_overlaps_and_losses_that_torchvision_alone_takes(torchvision: Any) -> None:
    ops, a, b = torchvision.ops, BOXES[:5], BOXES[5:11]
    corners = torch.stack([a[:, 0], a[:, 1], a[:, 2], a[:, 1], a[:, 2], a[:, 3], a[:, 0], a[:, 3]], 1)
    tilted = torch.cat([a[:, :2], a[:, 2:] - a[:, :2], torch.full((5, 1), 20.0)], 1)
    losses = (ops.generalized_box_iou_loss, ops.distance_box_iou_loss, ops.complete_box_iou_loss)
    names = [f.__name__ for f in losses]
    calls = {
        "a batch with a set": lambda: ops.box_iou(a[None], b),
        "eight corners": lambda: ops.box_iou(corners, corners, fmt="xyxyxyxy"),
        "tilted, from a corner": lambda: ops.box_iou(tilted, tilted, fmt="xywhr"),
        "one box for all": lambda: [getattr(ops, n)(a, b[0]) for n in names],
        "half": lambda: [getattr(ops, n)(a.half(), b[:5].half(), "sum") for n in names],
        "half and float": lambda: [getattr(ops, n)(a.half(), b[:5]) for n in names],
    }
    for name, call in calls.items():
        expected = call()
        with fastvision.patch("torchvision"):
            actual = call()
        torch.testing.assert_close(
            actual, expected, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def proposal_network(detection: Any) -> Any:
    torch.manual_seed(0)
    top = {"training": 100, "testing": 50}
    return detection.rpn.RegionProposalNetwork(
        detection.anchor_utils.AnchorGenerator(((32,),), ((0.5, 1.0),)),
        detection.rpn.RPNHead(8, 2),
        *(0.7, 0.3, 256, 0.5, top, top, 0.7),
    ).eval()


@pytest.mark.parametrize("change", ["method", "class", "hook", "pre-hook"])
def test_proposal_networks_that_were_changed_keep_their_changes(
    torchvision: Any, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detection = torchvision.models.detection
    network, seen = proposal_network(detection), []
    own = type(network).filter_proposals

    def filter_proposals(*args: Any) -> Any:
        seen.append(1)
        return own(network, *args[-4:])

    features = {"0": torch.randn(1, 8, 16, 16, generator=data.generator(4))}
    images = detection.image_list.ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)])
    with fastvision.patch("torchvision"):
        if change == "method":
            network.filter_proposals = filter_proposals
        elif change == "class":
            monkeypatch.setattr(type(network), "filter_proposals", filter_proposals)
        elif change == "hook":
            network.anchor_generator.register_forward_hook(lambda *_: seen.append(1))
        else:
            network.anchor_generator.register_forward_pre_hook(lambda *_: seen.append(1))
        network(images, features)
    assert seen


def test_losses_are_the_same(torchvision: Any) -> None:
    image = torch.rand(3, 200, 240, generator=data.generator())
    target = {"boxes": torch.tensor([[20.0, 30, 120, 150], [100, 10, 200, 90]]), "labels": torch.tensor([1, 2])}

    def losses() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)  # the same weights and the same sampled proposals
        model = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
        return model([image], [target])

    expected = losses()
    with fastvision.patch("torchvision"):
        actual = losses()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-4)


def test_facenet_pytorch_is_reached(torchvision: Any) -> None:
    require_module("facenet_pytorch")
    theirs = sys.modules["facenet_pytorch.models.utils.detect_face"]
    original = theirs.batched_nms
    with fastvision.patch("torchvision"):
        assert theirs.batched_nms is torchvision.ops.batched_nms is not original
    assert theirs.batched_nms is original
