"""MTCNN: faces and five landmarks each, by a cascade of three small networks.

Zhang, Zhang, Li, Qiao: Joint face detection and alignment using multi-task cascaded convolutional networks, 2016. A
fully convolutional network proposes windows over an image pyramid; two more look at the crops of what is left, each
rejecting most of it and moving the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastvision import ops
from fastvision import weights as registry
from fastvision.models.mtcnn_nets import ONet, PNet, RNet

_WINDOW = 12  # side of the window that the proposal network sees
_STRIDE = 2  # between its windows
_CROPS_AT_ONCE = 512  # bounds memory in crowds


class MTCNN(nn.Module):
    """Finds faces of any size from ``min_size`` up.

    Args:
        thresholds: least probability at the three networks.
        min_size: side in pixels of the smallest face to look for; the time goes with its inverse square.
        factor: ratio of one pyramid level's size to the one before.
        weights: a name in :data:`fastvision.weights.REGISTRY`, or None for random ones.

    Raises:
        ValueError: other than 3 thresholds, a ``min_size`` below 1, a ``factor`` outside (0, 1).
        fastvision.weights.WeightsError: weights that cannot be had.

    Reference:
        Zhang et al. 2016. Geometry and defaults agree with the facenet-pytorch package, whose weights these are.
    """

    def __init__(
        self,
        *,
        thresholds: Sequence[float] = (0.6, 0.7, 0.7),
        min_size: float = 20,
        factor: float = 0.709,
        weights: str | None = "mtcnn",
    ) -> None:
        super().__init__()
        if len(thresholds) != 3:
            raise ValueError(f"MTCNN: expected 3 thresholds, got {len(thresholds)}")
        if not min_size >= 1:
            raise ValueError(f"MTCNN: expected min_size >= 1, got {min_size}")
        if not 0 < factor < 1:
            raise ValueError(f"MTCNN: expected 0 < factor < 1, got {factor}")
        self.thresholds, self.min_size, self.factor = tuple(thresholds), min_size, factor
        self.pnet, self.rnet, self.onet = PNet(), RNet(), ONet()
        if weights is not None:
            self._load(weights)
        self.eval().requires_grad_(False)

    def _load(self, name: str) -> None:
        states = registry.load(name)
        for part in ("pnet", "rnet", "onet"):
            self.get_submodule(part).load_state_dict(states[part])

    @torch.no_grad()
    def forward(self, image: Tensor, *, timings: dict[str, float] | None = None) -> dict[str, Tensor]:
        """Detects the faces of one image.

        Args:
            image: ``[3, H, W]`` RGB, uint8 or floating point in [0, 1].
            timings: seconds spent in ``pyramid``, ``pnet``, ``grid``, ``nms``, ``crop``, ``rnet`` and ``onet`` are
                added to it (the device is synchronised around each, which without ``timings`` it is not).

        Shapes:
            ``boxes [N, 4]`` as ``(x1, y1, x2, y2)``, ``scores [N]`` and ``landmarks [N, 5, 2]`` as ``(x, y)``: the
            eyes, the nose, the corners of the mouth, left before right as seen in the picture. float32, in pixels, by
            descending score; boxes may reach beyond the image.

        Raises:
            ValueError: another shape or an integer type other than uint8.
        """
        pixels = _to_pixels(image)
        clock = _Clock(timings, pixels.device)
        boxes = self._propose(pixels, clock)
        with clock("crop"):
            table = _summed_area_table(pixels)
        boxes = self._refine(table, boxes, clock)
        return self._finish(table, boxes, clock)

    def _propose(self, pixels: Tensor, clock: _Clock) -> Tensor:
        """Boxes ``[K, 4]``, square, of the windows in which the first network sees a face."""
        found = [(*self._windows(pixels, scale, clock), level) for level, scale in enumerate(self._scales(pixels))]
        if not found:
            return pixels.new_zeros(0, 4)
        with clock("nms"):
            boxes, scores, offsets = (torch.cat(parts) for parts in zip(*(f[:3] for f in found), strict=True))
            levels = torch.cat([scores.new_full((len(f[0]),), f[3]) for f in found])
            keep = ops.batched_nms(boxes, scores, levels, 0.5)
            keep = keep[ops.nms(boxes[keep], scores[keep], 0.7)]
            return _squared(_moved(boxes[keep], offsets[keep], inclusive=0))

    def _scales(self, pixels: Tensor) -> list[float]:
        """From the one that makes ``min_size`` a window, down to the one that makes the image one."""
        side, scale, scales = min(pixels.shape[1:]) * _WINDOW / self.min_size, _WINDOW / self.min_size, []
        while side >= _WINDOW:
            scales.append(scale)
            side, scale = side * self.factor, scale * self.factor
        return scales

    def _windows(self, pixels: Tensor, scale: float, clock: _Clock) -> tuple[Tensor, Tensor, Tensor]:
        """Windows above the threshold in one level: boxes ``[K, 4]``, scores ``[K]``, offsets ``[K, 4]``."""
        with clock("pyramid"):
            size = [int(side * scale + 1) for side in pixels.shape[1:]]
            level = F.interpolate(pixels[None], size=size, mode="area").contiguous(memory_format=torch.channels_last)
        with clock("pnet"):
            scores, offsets = self.pnet(level)
        with clock("grid"):
            rows, columns = torch.nonzero(scores >= self.thresholds[0], as_tuple=True)
            corner = torch.stack([columns, rows], dim=1).float() * _STRIDE
            # pixels are counted from 1 and whole, as where the networks were trained
            boxes = torch.cat([(corner + 1) / scale, (corner + _WINDOW) / scale], dim=1).floor()
            return boxes, scores[rows, columns], offsets[:, rows, columns].T

    def _refine(self, table: Tensor, boxes: Tensor, clock: _Clock) -> Tensor:
        """``[K, 4] -> [L, 4]``, still square."""
        boxes, (scores, offsets) = _look(self.rnet, 24, table, boxes, clock, "rnet")
        with clock("nms"):
            chosen = scores > self.thresholds[1]
            boxes, scores, offsets = boxes[chosen], scores[chosen], offsets[chosen]
            keep = ops.nms(boxes, scores, 0.7)
            return _squared(_moved(boxes[keep], offsets[keep], inclusive=1))

    def _finish(self, table: Tensor, boxes: Tensor, clock: _Clock) -> dict[str, Tensor]:
        boxes, (scores, offsets, landmarks) = _look(self.onet, 48, table, boxes, clock, "onet")
        with clock("nms"):
            chosen = scores > self.thresholds[2]
            boxes, scores, offsets, landmarks = boxes[chosen], scores[chosen], offsets[chosen], landmarks[chosen]
            size = boxes[:, 2:] - boxes[:, :2] + 1
            landmarks = boxes[:, None, :2] + landmarks * size[:, None] - 1
            boxes = _moved(boxes, offsets, inclusive=1)
            # a box counts its last row and column; a box inside another goes too, whatever their sizes
            keep = ops.nms(boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0]), scores, 0.7, metric="ios")
            return {"boxes": boxes[keep], "scores": scores[keep], "landmarks": landmarks[keep]}


class _Clock:
    """Adds the seconds of ``with clock(stage)`` blocks to ``timings``, if there are any to keep."""

    def __init__(self, timings: dict[str, float] | None, device: torch.device) -> None:
        self.timings, self.device = timings, device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self.timings is None:
            yield
            return
        start = self._now()
        yield
        self.timings[stage] = self.timings.get(stage, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _to_pixels(image: Tensor) -> Tensor:
    """``[3, H, W]``, float32, values 0 to 255."""
    if image.dim() != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise ValueError(f"MTCNN: expected an image [3, H, W] with H, W >= 1, got {list(image.shape)}")
    if image.is_floating_point():
        return image.float() * 255
    if image.dtype != torch.uint8:
        raise ValueError(f"MTCNN: expected a uint8 or floating point image, got {image.dtype}")
    return image.float()


def _look(
    net: nn.Module, side: int, table: Tensor, boxes: Tensor, clock: _Clock, stage: str
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Boxes that reach into the image, and what ``net`` says of their crops."""
    with clock("crop"):
        spans = _spans(boxes, table)
        visible = (spans[:, 1] > spans[:, 0]).all(dim=1)
        boxes, spans = boxes[visible], spans[visible]
    parts = []
    for chunk in torch.split(spans, _CROPS_AT_ONCE):
        with clock("crop"):
            crops = _crop_area(table, chunk, side)
        with clock(stage):
            parts.append(net(crops))
    return boxes, tuple(torch.cat(part) for part in zip(*parts, strict=True))


def _spans(boxes: Tensor, table: Tensor) -> Tensor:
    """``[K, 4] -> [K, 2, 2]`` int64: first pixel and end, in x and y, of the boxes within the image."""
    extent = torch.tensor([table.shape[1] - 1, table.shape[0] - 1], device=boxes.device)
    ends = boxes.long()
    return torch.stack([ends[:, :2].clamp(min=1) - 1, torch.minimum(ends[:, 2:], extent)], dim=1)


def _summed_area_table(pixels: Tensor) -> Tensor:
    """``[3, H, W] -> [H + 1, W + 1, 3]`` sums of all pixels above and to the left; float64, exact for bytes."""
    return F.pad(pixels.permute(1, 2, 0).double(), (0, 0, 1, 0, 1, 0)).cumsum_(0).cumsum_(1)


def _crop_area(table: Tensor, spans: Tensor, side: int) -> Tensor:
    """``[K, 3, side, side]`` float32: crops resized by averaging, as ``F.interpolate(mode="area")`` does one by one.

    In channels_last order, in which the convolutions of few channels that follow run several times faster on the CPU.
    """
    first, end = spans[:, 0, :, None], spans[:, 1, :, None]  # [K, 2, 1]
    bins = torch.arange(side, device=spans.device)
    low = first + bins * (end - first) // side  # [K, 2, side]
    high = first + ((bins + 1) * (end - first) + side - 1) // side
    left, right = low[:, 0, None, :], high[:, 0, None, :]
    top, bottom = low[:, 1, :, None], high[:, 1, :, None]
    total = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    area = (bottom - top) * (right - left)  # [K, side, side]
    return (total / area[..., None]).float().permute(0, 3, 1, 2)


def _moved(boxes: Tensor, offsets: Tensor, *, inclusive: int) -> Tensor:
    """Corners shifted by ``offsets`` in sides; ``inclusive`` adds the last pixel to a side."""
    size = boxes[:, 2:] - boxes[:, :2] + inclusive
    return boxes + offsets * size.repeat(1, 2)


def _squared(boxes: Tensor) -> Tensor:
    """The smallest concentric squares that are as high and as wide."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.amax(dim=1, keepdim=True)
    corner = boxes[:, :2] + size * 0.5 - side * 0.5
    return torch.cat([corner, corner + side], dim=1)
