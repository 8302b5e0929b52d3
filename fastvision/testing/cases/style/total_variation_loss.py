"""Total variation of images."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastvision import ops
from fastvision.testing import data
from fastvision.testing.case import OpCase, Sample, Work, nbytes


def _samples(device: torch.device, dtype: torch.dtype) -> Iterator[Sample]:
    images = data.feature_map(3, 4, 21, 30).to(device, dtype)
    for norm in ("l2", "l1"):
        for reduction in ("mean", "sum", "none"):
            yield Sample(f"{norm} {reduction}", (images,), {"norm": norm, "reduction": reduction})
        last = images.to(memory_format=torch.channels_last)
        yield Sample("channels_last", (last,), {"norm": norm, "reduction": "none"})
        yield Sample("one column", (images[..., :1],), {"norm": norm})
        yield Sample("one row", (images[:, :, 4:5],), {"norm": norm})
        yield Sample("strided", (images[:, ::3, 1:, ::2],), {"norm": norm})
        yield Sample("window", (images[:, 1:, 2:9, 3:],), {"norm": norm})
        yield Sample("no images", (images[:0],), {"norm": norm})
        yield Sample("no rows", (images[:, :, :0],), {"norm": norm})
        yield Sample("several chunks", (data.feature_map(1, 2, 90, 400).to(device, dtype),), {"norm": norm})


def _gradients(device: torch.device) -> Iterator[Sample]:
    images = data.feature_map(2, 2, 4, 5).to(device, torch.float64)
    yield Sample("l2", (images,))
    yield Sample("l2 none", (images.to(memory_format=torch.channels_last),), {"reduction": "none"})
    yield Sample("l1", (images,), {"norm": "l1", "reduction": "sum"})


def _work(sample: Sample) -> Work:
    """Read once."""
    return Work(nbytes(sample.args[0]), 6 * sample.args[0].numel())


CASES = (
    OpCase(
        "total_variation_loss",
        ops.total_variation_loss,
        ("total_variation_loss", "total_variation_loss_backward"),
        _samples,
        _work,
        gradient_samples=_gradients,
        differentiable=(0,),
        linear=True,
    ),
)
