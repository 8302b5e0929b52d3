"""Masks and keypoints: pycocotools, torchvision and a real photo's annotations as oracles, and the edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from data_requirements import street_photo
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.cases.masks import probabilities

NAN, INF = float("nan"), float("inf")


def boxes_around(count: int, height: int, width: int, device: torch.device, seed: int = 0) -> Tensor:
    """Some beyond the image, some tiny."""
    g = data.generator(seed)
    corner = torch.rand(count, 2, generator=g) * torch.tensor([width, height]) * 1.2 - 0.1 * width
    side = torch.rand(count, 2, generator=g) ** 2 * torch.tensor([width, height])
    return torch.cat([corner, corner + side], 1).to(device)


def differing(a: Tensor, b: Tensor) -> int:
    return int((a != b).sum())


def test_pastes_as_torchvision_does(device: torch.device) -> None:
    heads = pytest.importorskip("torchvision.models.detection.roi_heads", reason="torchvision is the oracle here")
    boxes = boxes_around(60, 120, 160, device)
    x1, y1, x2, y2 = boxes.T
    boxes = boxes[(x1 < 158) & (y1 < 118) & (x2 > 2) & (y2 > 2)][:40]  # of others wholly outside it raises
    masks = probabilities(len(boxes), 28).to(device)
    assert len(boxes) > 30 and (boxes[:, :2] < 0).any() and (boxes[:, 2:] > 160).any()
    expected = heads.paste_masks_in_image(masks[:, None], boxes, (120, 160))[:, 0]
    actual = ops.paste_masks(masks, boxes, (120, 160), threshold=None)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    # rounding can only move numbers that are the threshold to the last places
    at_threshold = int(((expected - 0.5).abs() < 1e-6).sum())
    assert differing(ops.paste_masks(masks, boxes, (120, 160)), expected > 0.5) <= at_threshold
    assert at_threshold < 10 and (expected > 0.5).any()


def test_pastes_as_detectron2_does(device: torch.device) -> None:
    """Its rule in torch's own words: grid_sample at the centres of pixels."""
    masks, boxes = probabilities(40, 28, 1).to(device), boxes_around(40, 90, 120, device, 1)
    y, x = torch.arange(90, device=device) + 0.5, torch.arange(120, device=device) + 0.5
    x0, y0, x1, y1 = boxes.T[:, :, None]
    grid_y, grid_x = (y - y0) / (y1 - y0) * 2 - 1, (x - x0) / (x1 - x0) * 2 - 1
    grid = torch.stack([grid_x[:, None].expand(-1, 90, -1), grid_y[:, :, None].expand(-1, -1, 120)], -1)
    expected = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    actual = ops.paste_masks(masks, boxes, (90, 120), threshold=None, rule="detectron2")
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5)  # grid_sample's places are rounded, too
    near = int(((expected - 0.5).abs() < 2e-5).sum())
    pasted = ops.paste_masks(masks, boxes, (90, 120), rule="detectron2")
    assert differing(pasted, expected >= 0.5) <= near < 100


@pytest.mark.parametrize("rule", ["torchvision", "detectron2"])
def test_run_lengths_are_pycocotools(rule: str, device: torch.device) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is the oracle here, not a requirement")
    masks, boxes = probabilities(60, 28, 2).to(device), boxes_around(60, 150, 110, device, 2)
    boxes[0] = torch.tensor([0.0, 0, 110, 150])
    masks[1], boxes[1] = 1.0, torch.tensor([-50.0, -50, 300, 300])
    for side in (28, 14):
        small = masks[:, :side, :side]
        pasted = ops.paste_masks(small, boxes, (150, 110), rule=rule)
        for mask, found in zip(pasted, ops.paste_masks_rle(small, boxes, (150, 110), rule=rule), strict=True):
            expected = coco.encode(mask.cpu().numpy().astype("uint8", order="F"))
            assert found["size"] == expected["size"] and found["counts"] == expected["counts"]


def test_run_lengths_of_runs_of_any_length(device: torch.device) -> None:
    """The text has one to four characters a run, and negative differences."""
    masks = torch.rand(5, 3, 3, generator=data.generator(3)).to(device)
    for size in ((1, 1), (700, 3), (3, 900), (1200, 1100)):
        boxes = boxes_around(5, *size, device, 3)
        found = ops.paste_masks_rle(masks, boxes, size)
        assert found == ops.paste_masks_rle.reference(masks, boxes, size)
    assert ops.paste_masks_rle(masks[:0], torch.zeros(0, 4, device=device), (5, 5)) == []


def test_objects_of_a_street_photo_come_back(device: torch.device) -> None:
    """Annotated masks cropped to their boxes, shrunk to 28 x 28 and pasted again."""
    boxes, masks = street_photo()
    boxes, masks = boxes.to(device), masks.to(device)
    assert torch.equal(ops.masks_to_boxes(masks), torch.cat([boxes[:, :2], boxes[:, 2:] - 1], 1).float())
    whole = [m[int(y1) : int(y2), int(x1) : int(x2)] for m, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True)]
    small = torch.stack(
        [torch.nn.functional.interpolate(m[None, None].float(), (28, 28), mode="area")[0, 0] for m in whole]
    )
    for rule in ("torchvision", "detectron2"):
        pasted = ops.paste_masks(small, boxes.float(), masks.shape[1:], rule=rule)
        iou = ops.mask_iou(pasted, masks).diagonal()
        large = masks.sum((1, 2)) > 2000
        assert iou[large].min() > 0.8, iou
    overlap = ops.mask_iou(masks, masks)
    torch.testing.assert_close(overlap.diagonal().cpu(), torch.ones(len(masks)))


@pytest.mark.parametrize("rule", ["torchvision", "detectron2"])
def test_boxes_that_are_not_finite_or_far_away(rule: str, device: torch.device) -> None:
    rows = [[NAN, 0, 9, 9], [0, 0, INF, 9], [-INF, 0, 9, 9], [1e30, 0, 2e30, 9], [-90, -90, -50, -50], [9, 9, 5, 5]]
    boxes = torch.tensor(rows, device=device)
    masks = torch.ones(len(rows), 7, 7, device=device)
    pasted = ops.paste_masks(masks, boxes, (20, 20), rule=rule)
    assert not pasted.any()
    assert torch.equal(pasted, ops.paste_masks.reference(masks, boxes, (20, 20), rule=rule))
    empty = ops.paste_masks_rle(masks, boxes, (20, 20), rule=rule)
    assert all(found == empty[0] for found in empty)


@pytest.mark.parametrize(("rule", "threshold"), [("detectron2", 0.0), ("detectron2", -1.0), ("torchvision", -0.5)])
def test_thresholds_that_zero_passes(rule: str, threshold: float, device: torch.device) -> None:
    """Then all that no mask reaches is set, images of boxes that are not finite included."""
    masks = (probabilities(5, 12) - 0.5).to(device)
    boxes = boxes_around(5, 20, 30, device)
    boxes[1, 0], boxes[2] = NAN, torch.tensor([50.0, 50, 60, 60])
    args: Any = masks, boxes, (20, 30)
    pasted = ops.paste_masks(*args, threshold=threshold, rule=rule)
    assert pasted[1:3].all()
    assert torch.equal(pasted, ops.paste_masks.reference(*args, threshold=threshold, rule=rule))
    runs = ops.paste_masks_rle(*args, threshold=threshold, rule=rule)
    assert runs == ops.paste_masks_rle.reference(*args, threshold=threshold, rule=rule)


def test_memory_of_outputs_that_are_gone(device: torch.device) -> None:
    """Large outputs may reuse it: neither what they held nor what was written over it may show."""
    image, box = (1200, 2000), torch.tensor([[900.0, 500.0, 1100.0, 700.0]], device=device)
    mask = torch.ones(1, 28, 28, device=device)
    expected = ops.paste_masks(mask, box, image).nonzero()
    assert 38_000 < len(expected) < 48_000
    for count in (1, 2, 1):  # 2.4 and 4.8 MB
        earlier = [ops.paste_masks(mask.expand(count, -1, -1), box.expand(count, -1), image) for _ in range(3)]
        assert len({t.data_ptr() for t in earlier}) == 3  # those alive share nothing
        for pasted in earlier:
            assert torch.equal(pasted[-1:].nonzero(), expected)
            pasted.fill_(True)
        del earlier, pasted


def test_an_image_without_pixels(device: torch.device) -> None:
    masks, boxes = torch.ones(2, 5, 5, device=device), torch.tensor([[0.0, 0, 4, 4]] * 2, device=device)
    assert ops.paste_masks(masks, boxes, (0, 7)).shape == (2, 0, 7)
    assert ops.masks_to_boxes(torch.zeros(2, 0, 7, device=device)).tolist() == [[0.0] * 4] * 2


@given(
    rows=st.lists(st.lists(st.booleans(), min_size=1, max_size=9), min_size=1, max_size=9).filter(
        lambda rows: len({len(r) for r in rows}) == 1
    )
)
def test_boxes_of_any_mask(rows: list[Any], device: torch.device) -> None:
    mask = torch.tensor([rows], device=device)
    assert torch.equal(ops.masks_to_boxes(mask), ops.masks_to_boxes.reference(mask))


def test_mask_iou_is_pycocotools(device: torch.device) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is the oracle here, not a requirement")
    masks = torch.rand(12, 40, 50, generator=data.generator(5)) > torch.linspace(0, 0.99, 12)[:, None, None]
    encoded = coco.encode(masks.permute(1, 2, 0).numpy().astype("uint8", order="F"))
    expected = torch.tensor(coco.iou(encoded[:5], encoded[5:], [0] * 7), dtype=torch.float32)
    torch.testing.assert_close(ops.mask_iou(masks[:5].to(device), masks[5:].to(device)).cpu(), expected)
    assert ops.mask_iou(masks[:2] & False, masks[:1] & False).tolist() == [[0.0], [0.0]]
    with pytest.raises(ValueError, match="expected masks of shapes"):
        ops.mask_iou(masks, masks[:, 1:])


def test_mask_iou_under_autocast(device: torch.device) -> None:
    masks = torch.rand(6, 31, 37, generator=data.generator(5)).to(device) > 0.3
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert torch.equal(ops.mask_iou(masks, masks).diagonal(), torch.ones(6, device=device))


def test_keypoints_are_torchvisions(device: torch.device) -> None:
    heads = pytest.importorskip("torchvision.models.detection.roi_heads", reason="torchvision is the oracle here")
    rois = boxes_around(20, 200, 200, device, 6)
    for maps in (torch.randn(20, 5, 56, 56, generator=data.generator(6)), probabilities(100, 56).view(20, 5, 56, 56)):
        expected, expected_scores = heads.heatmaps_to_keypoints(maps.to(device), rois)
        keypoints, scores = ops.heatmaps_to_keypoints(maps.to(device), rois)
        torch.testing.assert_close(scores, expected_scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(keypoints, expected, rtol=1e-6, atol=1e-4)


def test_the_first_of_equal_places(device: torch.device) -> None:
    rois = torch.tensor([[10.0, 20, 38, 62]], device=device)
    for value in (0.0, -3.0, 2.0):
        keypoints, scores = ops.heatmaps_to_keypoints(torch.full((1, 1, 14, 14), value, device=device), rois)
        assert abs(float(scores) - value) < 1e-5 and keypoints[0, 0, 2] == 1
    zeros, _ = ops.heatmaps_to_keypoints(torch.zeros(1, 1, 14, 14, device=device), rois)
    assert zeros[0, 0].tolist() == [10.5, 20.5, 1.0]


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("where", [[(0, 0)], [(13, 13)], [(5, 7), (6, 1)], "all"])
def test_the_first_nan_of_a_heatmap_is_largest(value: float, where: Any, device: torch.device) -> None:
    """As torch's argmax has it, whichever device."""
    rois = torch.tensor([[10.0, 20, 38, 62], [0, 0, 5, 5]], device=device)
    maps = torch.randn(2, 3, 14, 14, generator=data.generator(7)).to(device)
    for y, x in [(slice(None), slice(None))] if where == "all" else where:
        maps[:, 1, y, x] = value
    (keypoints, scores), (expected, expected_scores) = (
        op(maps, rois) for op in (ops.heatmaps_to_keypoints, ops.heatmaps_to_keypoints.reference)
    )
    torch.testing.assert_close(scores, expected_scores, equal_nan=True, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(keypoints, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_keypoints_of_half_maps_are_places_in_float32(dtype: torch.dtype, device: torch.device) -> None:
    maps = torch.zeros(1, 1, 14, 14, dtype=dtype, device=device)
    maps[0, 0, 7, 7] = 3
    rois = torch.tensor([[3001.0, 2001, 3015, 2015]], device=device)
    keypoints, scores = ops.heatmaps_to_keypoints(maps, rois)
    assert keypoints.dtype == scores.dtype == torch.float32 and keypoints[0, 0].tolist() == [3008.5, 2008.5, 1.0]


def test_rois_without_keypoints(device: torch.device) -> None:
    rois = torch.tensor([[NAN, 0, 9, 9], [0, 0, INF, 9], [3, 4, 1e9, 9], [1, 2, 3, 4]], device=device)
    maps = torch.randn(4, 2, 8, 8, generator=data.generator(1)).to(device)
    keypoints, scores = ops.heatmaps_to_keypoints(maps, rois)
    assert scores[:3].isnan().all() and scores[3].isfinite().all()
    assert keypoints[2, 0].tolist() == [3.0, 4.0, 1.0]


def test_same_result_for_every_thread_count(device: torch.device) -> None:
    masks, boxes = probabilities(9, 28).to(device), boxes_around(9, 90, 90, device)
    maps = torch.randn(9, 4, 28, 28, generator=data.generator(2)).to(device)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append((ops.paste_masks(masks, boxes, (90, 90)), *ops.heatmaps_to_keypoints(maps, boxes)))
    finally:
        torch.set_num_threads(threads)
    for more in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(more, results[0], strict=True))


def test_bad_arguments(device: torch.device) -> None:
    masks, boxes = torch.zeros(2, 5, 5, device=device), torch.zeros(2, 4, device=device)
    with pytest.raises(ValueError, match="expected rule"):
        ops.paste_masks(masks, boxes, (9, 9), rule="coco")
    with pytest.raises(ValueError, match=r"masks of shape \[N, H, W\]"):
        ops.masks_to_boxes(masks[0])


@pytest.mark.parametrize("size", [(3, 301, 333), (5, 37, 41), (2, 1, 100_003), (2, 7, 3)])
def test_edges_of_masks_anywhere_in_memory(size: tuple[int, int, int], device: torch.device) -> None:
    """Masks of many chunks, and views that begin between two words."""
    g = data.generator(1)
    masks = (torch.rand(size[0] + 1, *size[1:], generator=g) > 0.999).to(device)
    masks[0, 0, -1] = masks[-1, -1, 0] = masks[1, -1, -1] = True
    for view in (masks, masks[1:], masks.flatten()[5 : 5 + size[1] * size[2]].view(1, *size[1:]), masks[:, :, 1:]):
        assert torch.equal(ops.masks_to_boxes(view), ops.masks_to_boxes.reference(view))
