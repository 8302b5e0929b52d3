"""Upsampling without weights, by whole factors."""

from __future__ import annotations

import torch

from fastvision import ops


def test_unlearned_upsampling_of_two_by_two(device: torch.device) -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], device=device)
    assert ops.nearest_upsample(x, 2)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert ops.bed_of_nails_upsample(x, 2)[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]


def test_nails_stay_where_they_are(device: torch.device) -> None:
    x = torch.full((1, 2, 2, 2), float("inf"), device=device)
    assert torch.equal(ops.bed_of_nails_upsample(x, 3), ops.bed_of_nails_upsample.reference(x, 3))


def test_shapes_are_known_without_data() -> None:
    x = torch.empty(1, 3, 4, 4, device="meta")
    assert ops.nearest_upsample(x, 2).shape == ops.bed_of_nails_upsample(x, 2).shape == (1, 3, 8, 8)


def test_nails_are_not_rounded_inside_autocast(device: torch.device) -> None:
    x = torch.full((1, 1, 2, 2), 1.001, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = ops.bed_of_nails_upsample(x, 2)
    assert torch.equal(out, ops.bed_of_nails_upsample(x, 2)) and out.dtype == torch.float32
