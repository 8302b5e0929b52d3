"""Seeded boxes, rois and feature maps of the kinds the ops meet in practice."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count: int, extent: float = 1000.0, largest: float = 100.0, seed: int = 0) -> Tensor:
    """[count, 4] spread evenly over an ``extent`` x ``extent`` image, sides up to ``largest`` pixels."""
    g = generator(seed)
    corner = torch.rand(count, 2, generator=g) * extent
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=g) * largest], dim=1)


def clustered_boxes(count: int, clusters: int = 100, extent: float = 1000.0, seed: int = 0) -> Tensor:
    """[count, 4] jittered around a few objects, as a detector's last layer gives them."""
    g = generator(seed)
    objects = random_boxes(clusters, extent, 150.0, seed + 1)
    chosen = objects[torch.randint(clusters, (count,), generator=g)]
    return chosen + torch.randn(count, 4, generator=g) * 3.0


def rpn_boxes(count: int, height: float = 800.0, width: float = 1344.0, seed: int = 0) -> Tensor:
    """[count, 4] of five scales and three shapes, jittered, clipped to the image: what an RPN ranks."""
    g = generator(seed)
    centre = torch.rand(count, 2, generator=g) * torch.tensor([width, height])
    scale = 32.0 * 2 ** torch.randint(5, (count,), generator=g)
    ratio = torch.tensor([0.5, 1.0, 2.0])[torch.randint(3, (count,), generator=g)].sqrt()
    size = torch.stack([scale / ratio, scale * ratio], 1) * torch.exp(0.2 * torch.randn(count, 2, generator=g))
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    limit = torch.tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def scores(count: int, seed: int = 0) -> Tensor:
    """[count] distinct scores in (0, 1), shuffled: no ties, so that every implementation agrees on the order."""
    return (torch.randperm(count, generator=generator(seed)).float() + 1) / (count + 1)


def random_rois(count: int, images: int, height: float, width: float, seed: int = 0) -> Tensor:
    """[count, 5] = (image, x1, y1, x2, y2) in image pixels, sides from 16 pixels to about a third of the image."""
    g = generator(seed)
    extent = torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=g) * extent * 0.8
    side = 16 + torch.rand(count, 2, generator=g) * extent / 3
    image = torch.randint(images, (count, 1), generator=g).float()
    return torch.cat([image, corner, torch.minimum(corner + side, extent)], dim=1)


def random_rotated_rois(count: int, images: int, height: float, width: float, seed: int = 0) -> Tensor:
    """[count, 6] = (image, cx, cy, w, h, degrees): the regions of :func:`random_rois`, turned by any angle."""
    rois = random_rois(count, images, height, width, seed)
    corner, far = rois[:, 1:3], rois[:, 3:5]
    degrees = torch.rand(count, 1, generator=generator(seed + 1)) * 720 - 360
    return torch.cat([rois[:, :1], (corner + far) / 2, far - corner, degrees], dim=1)


def boxes_of_images(rois: Tensor, images: int) -> list[Tensor]:
    """rois [K, 5] -> the boxes of each image, [K_i, 4]."""
    return [rois[rois[:, 0] == image, 1:] for image in range(images)]


def feature_map(n: int, c: int, h: int, w: int, seed: int = 0) -> Tensor:
    """[n, c, h, w] of standard normal values."""
    return torch.randn(n, c, h, w, generator=generator(seed))
