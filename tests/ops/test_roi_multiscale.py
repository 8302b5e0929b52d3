"""multiscale_roi_align and its module: against torchvision's, level by level, at the edges, bitwise repeatable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fastvision
from fastvision import ops
from fastvision.testing import data

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def pyramid(device: torch.device, channels: int = 16, images: int = 2, layout: Any = torch.contiguous_format) -> Any:
    """Four levels of images of 128 x 160 pixels."""
    return {
        str(i): data.feature_map(images, channels, 32 >> i, 40 >> i, seed=i).to(device).to(memory_format=layout)
        for i in range(4)
    }


def boxes_of_all_sizes(device: torch.device) -> list[Tensor]:
    """Sides from 2 to 700 pixels, so that every level has some, and some stick out."""
    g = data.generator(3)
    centre = torch.rand(60, 2, generator=g) * torch.tensor([160.0, 128.0])
    size = 2 ** (1 + 8.5 * torch.rand(60, 2, generator=g))
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1).to(device)
    return [boxes[:25], boxes[25:]]


def pooled_and_gradients(op: Any, maps: dict[str, Tensor], *args: Any) -> tuple[Tensor, list[Tensor]]:
    leaves = {name: m.detach().clone(memory_format=torch.preserve_format).requires_grad_() for name, m in maps.items()}
    out = op(leaves, *args)
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    return out, list(torch.autograd.grad((out * weight).sum(), list(leaves.values()), materialize_grads=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("ratio", [2, 0])
@pytest.mark.parametrize("names", [["0", "1", "2", "3"], ["1", "2"], ["2"]], ids=str)
@pytest.mark.parametrize("rule", [{}, {"canonical_scale": 56, "canonical_level": 3}], ids=["default", "small"])
def test_equals_torchvision(layout: Any, ratio: int, names: list[str], rule: Any, device: torch.device) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    maps, boxes = pyramid(device, layout=layout), boxes_of_all_sizes(device)
    shapes = [(120, 160), (128, 150)]
    ours, theirs = (
        pooled_and_gradients(family.MultiScaleRoIAlign(names, 7, ratio, **rule), maps, boxes, shapes)
        for family in (ops, torchvision.ops)
    )
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-5)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        scale = other.abs().max().clamp(min=1)
        torch.testing.assert_close(mine / scale, other / scale, rtol=1e-5, atol=1e-5)


def test_levels_equal_torchvisions(device: torch.device) -> None:
    """Every size there is, and those where the level changes; each map is the number of its level."""
    poolers = pytest.importorskip("torchvision.ops.poolers", reason="torchvision is the oracle, not a requirement")
    edges = 7 * 2.0 ** torch.arange(9)
    sides = torch.cat([torch.linspace(0, 2000, 4001), edges, edges * (1 - 1e-6), edges * (1 + 1e-6)])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], 1).to(device)
    expected = poolers.LevelMapper(2, 5, 224, 4, 1e-6)([boxes])
    maps = [torch.full((1, 1, 600, 600), float(level), device=device) for level in range(4)]
    chosen = ops.multiscale_roi_align(maps, [boxes], 1, spatial_scales=SCALES, sampling_ratio=1)
    assert torch.equal(chosen.flatten(), expected.float())


def test_each_level_is_roi_align(device: torch.device) -> None:
    maps, boxes = list(pyramid(device).values()), torch.cat(boxes_of_all_sizes(device))
    rois = torch.cat([torch.ones(len(boxes), 1, device=device), boxes], 1)
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    level = (4 + (sides / 224).log2()).floor().clamp(2, 5) - 2
    assert set(level.tolist()) == {0.0, 1.0, 2.0, 3.0}
    out = ops.multiscale_roi_align(maps, rois, (3, 5), spatial_scales=SCALES, sampling_ratio=2, aligned=True)
    for k, roi in enumerate(rois):
        i = int(level[k])
        expected = ops.roi_align(maps[i], roi[None], (3, 5), SCALES[i], 2, True)
        assert torch.equal(out[k : k + 1], expected)


def test_empty_levels_and_no_rois(device: torch.device) -> None:
    maps = pyramid(device)
    boxes = [torch.tensor([[5.0, 5, 20, 20]], device=device), torch.zeros(0, 4, device=device)]
    out, gradients = pooled_and_gradients(
        ops.MultiScaleRoIAlign(list(maps), 3, 2), maps, boxes, [(128, 160), (128, 160)]
    )
    assert out.shape == (1, 16, 3, 3) and gradients[0].any()
    assert not any(g.any() for g in gradients[1:])
    none = [boxes[1], boxes[1]]
    out, gradients = pooled_and_gradients(
        ops.MultiScaleRoIAlign(list(maps), 3, 2), maps, none, [(128, 160), (128, 160)]
    )
    assert out.shape == (0, 16, 3, 3) and not any(g.any() for g in gradients)
    nothing = [torch.zeros(0, 4, 8, 8, device=device), torch.zeros(0, 4, 4, 4, device=device)]
    rois = torch.zeros(0, 5, device=device)
    assert ops.multiscale_roi_align(nothing, rois, 2, spatial_scales=[0.25, 0.125]).shape == (0, 4, 2, 2)


def test_rois_without_a_level_are_zero(device: torch.device) -> None:
    maps = list(pyramid(device).values())
    bad = torch.tensor([[0.0, 50, 10, 20, 40], [0, float("nan"), 1, 2, 3], [1, 0, 0, float("inf"), 4]], device=device)
    out = ops.multiscale_roi_align(maps, bad, 2, spatial_scales=SCALES)
    assert not out.any()


@pytest.mark.parametrize("size", [1e5, 1e9, 1e19, 3e38])
def test_enormous_rois_are_bounded_work(size: float, device: torch.device) -> None:
    rois = torch.tensor([[0.0, -size, -size, size, size]], device=device)
    out, gradients = pooled_and_gradients(
        lambda maps: ops.multiscale_roi_align(list(maps.values()), rois, 3, spatial_scales=SCALES), pyramid(device)
    )
    assert out.isfinite().all() and all(g.isfinite().all() for g in gradients)


def test_image_index_out_of_range(device: torch.device) -> None:
    maps, rois = list(pyramid(device).values()), torch.tensor([[2.0, 1, 1, 40, 40]], device=device)
    if device.type == "cpu" and fastvision.BACKEND == "native":
        with pytest.raises(IndexError, match=r"multiscale_roi_align: expected rois\[0, 0\]"):
            ops.multiscale_roi_align(maps, rois, 2, spatial_scales=SCALES)
    else:
        assert not ops.multiscale_roi_align(maps, rois, 2, spatial_scales=SCALES).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: ([], SCALES[:0]), "expected at least one feature map"),
        (lambda m: (m, SCALES[:3]), "expected one spatial scale for each of 4 feature maps, got 3"),
        (lambda m: (m, (0.25, 0.0, 0.1, 0.1)), "expected finite spatial scales > 0, got 0"),
        (lambda m: ([m[0], m[1][:, :3]], SCALES[:2]), r"expected feature maps of shape \[2, 16, H, W\], got \[2, 3, "),
        (lambda m: ([m[0], m[1].double()], SCALES[:2]), "expected feature maps of one dtype"),
        (lambda m: ([m[0][0]], SCALES[:1]), r"expected a feature map of shape \[N, C, H, W\], got \[16, 32, 40\]"),
        (lambda m: ([m[0]] * 17, [0.1] * 17), "expected 1 to 16 spatial scales, got 17"),
    ],
)
def test_bad_arguments(change: Any, message: str, device: torch.device) -> None:
    maps, scales = change(list(pyramid(device).values()))
    with pytest.raises(ValueError, match="multiscale_roi_align: " + message):
        ops.multiscale_roi_align(maps, torch.zeros(1, 5, device=device), 2, spatial_scales=scales)


def test_module_names_what_is_missing(device: torch.device) -> None:
    module, maps = ops.MultiScaleRoIAlign(["x"], 2, 2), pyramid(device)
    with pytest.raises(ValueError, match=r"expected maps named \['x'\], got \['0', '1', '2', '3'\]"):
        module(maps, [], [(1, 1)])
    with pytest.raises(ValueError, match="expected at least one image shape"):
        ops.MultiScaleRoIAlign(["0"], 2, 2)(maps, [], [])
    assert repr(module) == "MultiScaleRoIAlign(featmap_names=['x'], output_size=(2, 2), sampling_ratio=2)"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_bitwise_repeatable(layout: Any, device: torch.device) -> None:
    maps, boxes = pyramid(device, 40, layout=layout), boxes_of_all_sizes(device)
    module, threads, results = ops.MultiScaleRoIAlign(list(maps), 7, 0), torch.get_num_threads(), []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            out, gradients = pooled_and_gradients(module, maps, boxes, [(128, 160)])
            results.append([out, *gradients])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_rounded_once(dtype: torch.dtype, device: torch.device) -> None:
    maps, boxes = [m.to(dtype) for m in pyramid(device, 32).values()], boxes_of_all_sizes(device)
    out = ops.multiscale_roi_align(maps, boxes, 7, spatial_scales=SCALES)
    exact = ops.multiscale_roi_align([m.double() for m in maps], boxes, 7, spatial_scales=SCALES)
    ulp = torch.finfo(dtype).eps * exact.abs().clamp(min=2**-6)
    assert ((out.double() - exact).abs() <= 2 * ulp).all()


def test_compiled_with_dynamic_shapes(device: torch.device) -> None:
    module = ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 2, 2)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for images in (2, 3):
        maps, boxes = pyramid(device, images=images), boxes_of_all_sizes(device)
        shapes = [(128, 160)] * images
        torch.testing.assert_close(compiled(maps, boxes, shapes), module(maps, boxes, shapes))
    torch._dynamo.reset()


def test_batch_of_64(device: torch.device) -> None:
    maps = [data.feature_map(64, 3, 16 >> i, 16 >> i, seed=i).to(device) for i in range(2)]
    rois = data.random_rois(500, 64, 64.0, 64.0).to(device)
    kwargs: dict[str, Any] = {"spatial_scales": [0.25, 0.125], "canonical_scale": 24, "canonical_level": 3}
    ours, plain = (f(maps, rois, 2, **kwargs) for f in (ops.multiscale_roi_align, ops.multiscale_roi_align.reference))
    torch.testing.assert_close(ours, plain)
