"""Anchors, sampling, and one-call post-processing against torchvision's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastvision import _library, ops, reference
from fastvision.testing import data

NAN = float("nan")
GRIDS = ((25, 32), (13, 16), (7, 8))
SIZES = [(200, 256), (180, 230)]
STRIDES = [(8, 8), (15, 16), (28, 32)]


def images(height: int = 200, width: int = 256) -> Any:
    """What a detector calls an image list."""
    return SimpleNamespace(tensors=torch.zeros(2, 3, height, width), image_sizes=SIZES)


def maps(channels: int, scale: float, device: torch.device, seed: int) -> list[Tensor]:
    g = data.generator(seed)
    return [(torch.randn(2, channels, h, w, generator=g) * scale).to(device) for h, w in GRIDS]


def flat(levels: list[Tensor], numbers: int) -> list[Tensor]:
    """[N, A numbers, H, W] -> [N, H W A, numbers]"""
    return [t.unflatten(1, (-1, numbers)).permute(0, 3, 4, 1, 2).flatten(1, 3) for t in levels]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchors_are_torchvisions(dtype: torch.dtype) -> None:
    tv = pytest.importorskip("torchvision.models.detection.anchor_utils", reason="torchvision is the oracle here")
    features = [torch.zeros(2, 1, h, w, dtype=dtype) for h, w in GRIDS]
    for args in (
        (((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3),
        ((16, 32, 64), (0.5, 1.0)),
        (((16, 20), (32, 40), (64, 80)), ((0.5,), (1.0, 2.0), (3.0,))),
    ):
        ours, theirs = ops.AnchorGenerator(*args), tv.AnchorGenerator(*args)
        assert ours.num_anchors_per_location() == theirs.num_anchors_per_location()
        for a, b in zip(ours(images(), features), theirs(images(), features), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    for kwargs in ({}, {"steps": [8, 16, 32], "clip": False}, {"scales": [0.07, 0.15, 0.33, 0.51]}):
        made = [f([[2], [2, 3], []], **kwargs) for f in (ops.DefaultBoxGenerator, tv.DefaultBoxGenerator)]
        assert repr(made[0]) == repr(made[1])
        assert made[0].num_anchors_per_location() == made[1].num_anchors_per_location()
        for a, b in zip(made[0](images(), features), made[1](images(), features), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


def test_anchor_errors() -> None:
    with pytest.raises(ValueError, match="expected 2 feature maps"):
        ops.AnchorGenerator(((16,), (32,)), ((1.0,), (1.0,)))(images(), [torch.zeros(2, 1, 4, 4)])
    with pytest.raises(ValueError, match="expected 1 steps, one for each level, got 2"):
        ops.DefaultBoxGenerator([[2]], steps=[8, 16])


def assert_detections(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a["labels"], b["labels"])
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(a["boxes"], b["boxes"], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("pre", "post", "threshold"), [(200, 100, 0.0), (10_000, 2000, 0.3)])
def test_rpn_is_torchvisions(pre: int, post: int, threshold: float, channels_last: bool, device: torch.device) -> None:
    rpn = pytest.importorskip("torchvision.models.detection.rpn", reason="torchvision is the oracle here")
    generator = ops.AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    objectness, deltas = maps(3, 2.0, device, 0), maps(12, 0.5, device, 1)
    tops = {"training": pre, "testing": pre}, {"training": post, "testing": post}
    oracle = rpn.RegionProposalNetwork(
        generator, lambda _: (objectness, deltas), 0.7, 0.3, 256, 0.5, *tops, 0.7, threshold
    ).eval()
    features = {str(i): t for i, t in enumerate(objectness)}
    theirs = oracle(images(), features)[0]
    _, expected = oracle.filter_proposals(
        oracle.box_coder.decode(torch.cat(flat(deltas, 4), 1).flatten(0, 1), generator(images(), objectness)).view(
            2, -1, 4
        ),
        torch.cat(flat(objectness, 1), 1),
        SIZES,
        [t[0].numel() for t in objectness],
    )
    if channels_last:
        objectness, deltas = ([t.to(memory_format=torch.channels_last) for t in m] for m in (objectness, deltas))
    boxes, scores = ops.rpn_proposals(
        objectness,
        deltas,
        generator.cell_anchors,
        generator.strides((200, 256), objectness),
        SIZES,
        pre_nms_top_n=pre,
        post_nms_top_n=post,
        score_threshold=threshold,
    )
    for a, b, s, t in zip(boxes, theirs, scores, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(s, t, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("top_k", "threshold"), [(150, 0.05), (5000, 0.6)])
def test_retinanet_is_torchvisions(top_k: int, threshold: float, device: torch.device) -> None:
    retinanet = pytest.importorskip("torchvision.models.detection.retinanet", reason="torchvision is the oracle here")
    generator = ops.AnchorGenerator(((16, 20), (32, 40), (64, 80)), ((0.5, 1.0, 2.0),) * 3)
    logits, deltas = maps(6 * 7, 1.5, device, 2), maps(6 * 4, 0.5, device, 3)
    anchors = [a.split([h * w * 6 for h, w in GRIDS]) for a in generator(images(), logits)]
    oracle = SimpleNamespace(
        score_thresh=threshold,
        topk_candidates=top_k,
        nms_thresh=0.5,
        detections_per_img=100,
        box_coder=retinanet.det_utils.BoxCoder(weights=(1.0, 1.0, 1.0, 1.0)),
    )
    outputs = {"cls_logits": flat(logits, 7), "bbox_regression": flat(deltas, 4)}
    theirs = retinanet.RetinaNet.postprocess_detections(oracle, outputs, anchors, SIZES)
    ours = ops.retinanet_detections(
        logits,
        deltas,
        generator.cell_anchors,
        generator.strides((200, 256), logits),
        SIZES,
        score_threshold=threshold,
        top_k=top_k,
        detections_per_image=100,
    )
    assert_detections(ours, theirs)


@pytest.mark.parametrize(("top_k", "threshold"), [(40, 0.01), (400, 0.2)])
def test_ssd_is_torchvisions(top_k: int, threshold: float, device: torch.device) -> None:
    ssd = pytest.importorskip("torchvision.models.detection.ssd", reason="torchvision is the oracle here")
    generator = ops.DefaultBoxGenerator([[2], [2], [2]])
    logits, deltas = maps(4 * 9, 2.0, device, 4), maps(4 * 4, 1.0, device, 5)
    anchors = generator(images(), logits)
    oracle = SimpleNamespace(
        score_thresh=threshold,
        topk_candidates=top_k,
        nms_thresh=0.45,
        detections_per_img=200,
        box_coder=ssd.det_utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
    )
    outputs = {"cls_logits": torch.cat(flat(logits, 9), 1), "bbox_regression": torch.cat(flat(deltas, 4), 1)}
    theirs = ssd.SSD.postprocess_detections(oracle, outputs, anchors, SIZES)
    ours = ops.ssd_detections(logits, deltas, anchors[0], SIZES, num_classes=9, score_threshold=threshold, top_k=top_k)
    assert_detections(ours, theirs)


@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_top_candidates_are_a_stable_top_k(ranked: bool, dtype: torch.dtype, device: torch.device) -> None:
    """Ties in plenty, NaN, infinities and a threshold, on maps large enough for several threads."""
    if not _library.LOADED:
        pytest.skip("no kernel without the compiled library")
    g = data.generator(8)
    values = torch.randn(2, 3, 70, 40, generator=g).mul(3).round().to(dtype)
    values[0, 1, 5], values[1, 2, 7], values[0, 0, 3], values[1, 0, 9] = NAN, float("inf"), -float("inf"), -0.0
    values = values.to(device)
    for k in (1, 50, 3000, 8400):
        for threshold in (-float("inf"), 2.0):
            indices, scores = torch.ops.fastvision.top_candidates([values], 0, k, threshold, False, ranked)
            rows = values.permute(0, 2, 3, 1).flatten(1).to(scores.dtype)
            for row, found, score in zip(rows, indices[:, 0], scores[:, 0], strict=True):
                order = reference.nms.rank(row)
                wanted = order[(row[order] >= threshold) & ~row[order].isnan()][:k]
                if not ranked:
                    wanted = wanted.sort().values
                assert torch.equal(found[: len(wanted)], wanted)
                assert (found[len(wanted) :] == -1).all() and (score[len(wanted) :] == -float("inf")).all()
                assert torch.equal(score[: len(wanted)], row[wanted])


def test_nan_logits_are_no_candidates(device: torch.device) -> None:
    generator = ops.AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3)
    objectness, deltas = maps(1, 2.0, device, 0), maps(4, 0.5, device, 1)
    for level in objectness:
        level[:, :, 3] = NAN
    boxes, scores = ops.rpn_proposals(objectness, deltas, generator.cell_anchors, STRIDES, SIZES)
    assert all(len(b) > 0 and b.isfinite().all() and s.isfinite().all() for b, s in zip(boxes, scores, strict=True))
    nothing = [torch.full_like(level, NAN) for level in objectness]
    boxes, scores = ops.rpn_proposals(nothing, deltas, generator.cell_anchors, STRIDES, SIZES)
    assert [len(b) for b in boxes] == [0, 0] and boxes[0].shape == (0, 4)


def test_padded_proposals_compile_with_static_shapes(device: torch.device) -> None:
    generator = ops.AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3)
    anchors = [a.to(device) for a in generator.cell_anchors]

    def proposals(objectness: list[Tensor], deltas: list[Tensor]) -> Any:
        return ops.rpn_proposals(objectness, deltas, anchors, STRIDES, SIZES, post_nms_top_n=50, padded=True)

    args = maps(1, 2.0, device, 0), maps(4, 0.5, device, 1)
    torch._dynamo.reset()
    compiled = torch.compile(proposals, fullgraph=True, dynamic=False, backend="aot_eager")
    for a, b in zip(compiled(*args), proposals(*args), strict=True):
        assert torch.equal(a, b)


def test_more_images_than_a_kernel_takes_at_once(device: torch.device) -> None:
    g = data.generator(3)
    objectness, deltas = torch.randn(70, 1, 3, 4, generator=g), torch.randn(70, 4, 3, 4, generator=g)
    objectness, deltas = objectness.to(device), deltas.to(device)
    sizes = [(40 + i, 60 - i // 2) for i in range(70)]
    anchors = [torch.tensor([[-9.0, -9, 9, 9]])]
    boxes, _ = ops.rpn_proposals([objectness], [deltas], anchors, [(16, 16)], sizes)
    for i in (0, 63, 64, 69):
        alone, _ = ops.rpn_proposals(
            [objectness[i : i + 1]], [deltas[i : i + 1]], anchors, [(16, 16)], sizes[i : i + 1]
        )
        assert torch.equal(boxes[i], alone[0])


def test_yolo_grid_worked_by_hand(device: torch.device) -> None:
    """One box of cell (row 2, column 4) of a 7 x 7 grid on a 448 x 448 image (Redmon et al. 2016, section 2)."""
    output = torch.zeros(1, 7, 7, 2 * 5 + 3, device=device)
    output[0, 2, 4] = torch.tensor([0.5, 0.25, 0.5, 0.25, 0.8, 0, 0, 0, 0, 0, 0.1, 0.9, 0.0], device=device)
    (found,) = ops.yolo_detections(output, [(448, 448)], num_classes=3)
    # centre (4.5, 2.25) cells of 64 pixels, size (0.25, 0.0625) of 448
    torch.testing.assert_close(found["boxes"].cpu(), torch.tensor([[232.0, 130.0, 344.0, 158.0]]))
    torch.testing.assert_close(found["scores"].cpu(), torch.tensor([0.72]))
    assert found["labels"].tolist() == [1]


def test_yolo_dense_worked_by_hand(device: torch.device) -> None:
    """Distances of certain length: all weight on one bin each."""
    output = torch.full((1, 4 * 16 + 2, 4, 4), -20.0, device=device)
    for side, distance in enumerate((1, 2, 3, 0)):
        output[0, 16 * side + distance, 1, 2] = 50.0
    output[0, 65, 1, 2] = 2.0
    (found,) = ops.yolo_detections([output], [(128, 128)], num_classes=2, strides=[32])
    torch.testing.assert_close(found["boxes"].cpu(), torch.tensor([[48.0, 0.0, 128.0, 48.0]]))
    torch.testing.assert_close(found["scores"].cpu(), torch.tensor([2.0]).sigmoid())
    assert found["labels"].tolist() == [1]


def test_yolo_errors(device: torch.device) -> None:
    with pytest.raises(ValueError, match="expected 2 image sizes, got 1"):
        ops.yolo_detections(torch.zeros(2, 7, 7, 30, device=device), [(9, 9)], num_classes=20)
    with pytest.raises(ValueError, match=r"expected outputs of shape \[N, S, S, 5 B \+ 20\]"):
        ops.yolo_detections(torch.zeros(1, 7, 7, 29, device=device), [(9, 9)], num_classes=20)
    with pytest.raises(ValueError, match="expected at least one level"):
        ops.yolo_detections([], [], num_classes=2)
    with pytest.raises(ValueError, match=r"expected levels of shape \[1, 4 R \+ 2, H, W\], got \[2, 66"):
        levels = [torch.zeros(n, 66, 7, 7, device=device) for n in (1, 2)]
        ops.yolo_detections(levels, [(9, 9)], num_classes=2, strides=(8, 16))
    with pytest.raises(ValueError, match="a stride for each of 1 levels, got 3"):
        ops.yolo_detections([torch.zeros(1, 66, 7, 7, device=device)], [(9, 9)], num_classes=2)


@pytest.mark.parametrize("positives", [0, 5, 400])
def test_balanced_sample_is_torchvisions(positives: int) -> None:
    utils = pytest.importorskip("torchvision.models.detection._utils", reason="torchvision is the oracle here")
    labels = torch.randint(-1, 1, (1000,), generator=data.generator(1)).float()
    labels[torch.randperm(1000, generator=data.generator(2))[:positives]] = 1
    torch.manual_seed(7)
    (wanted,), (unwanted,) = utils.BalancedPositiveNegativeSampler(256, 0.5)([labels])
    torch.manual_seed(7)
    positive, negative = ops.balanced_sample(labels, 256, 0.5)
    assert torch.equal(positive.sort().values, wanted.nonzero()[:, 0])
    assert torch.equal(negative.sort().values, unwanted.nonzero()[:, 0])
    assert len(positive) == min(positives, 128) and len(positive) + len(negative) == 256


def test_balanced_sample_compiles() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda labels: ops.balanced_sample(labels, 64, 0.25), fullgraph=True, backend="aot_eager")
    for positives, negatives in ((0, 500), (5, 400), (16, 48), (200, 10), (200, 300), (0, 0), (30, 0)):
        labels = torch.full((500,), -1)
        labels[:positives], labels[500 - negatives :] = 1, 0
        labels = labels[torch.randperm(500, generator=data.generator(3))]
        positive, negative = compiled(labels)
        assert len(positive) == min(positives, 16) and len(negative) == min(negatives, 64 - len(positive))
        assert (labels[positive] == 1).all() and (labels[negative] == 0).all()
    torch._dynamo.reset()


def test_balanced_sample_is_seeded_and_checks_its_arguments() -> None:
    labels = torch.randint(-1, 3, (500,), generator=data.generator(1))
    a, b = (ops.balanced_sample(labels, 64, 0.25, generator=data.generator(5)) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert (labels[a[0]] >= 1).all() and (labels[a[1]] == 0).all() and len(set(a[1].tolist())) == len(a[1])
    with pytest.raises(ValueError, match=r"labels of shape \[A\]"):
        ops.balanced_sample(labels[None], 64, 0.25)
    with pytest.raises(ValueError, match=r"positive_fraction in \[0, 1\]"):
        ops.balanced_sample(labels, 64, 1.5)
