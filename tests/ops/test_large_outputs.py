"""Outputs too large for the caches, which the CPU's kernels write past them: a batch of them equals image by image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transposed_layers import kernel

from fastvision import _library, ops

LARGE = int(_library.build_info().get("streamed_bytes", 0)) if _library.BACKEND == "native" else 0

pytestmark = pytest.mark.skipif(LARGE == 0, reason="the stores are those of the CPU kernels, on x86, unsanitized")


def depthwise(stride: int, slope: float) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        x = x[:, :, : x.shape[2] // stride, : x.shape[3] * 2 // stride]
        channels, taps = x.shape[1], 2 * stride
        weight = torch.linspace(-1, 1, channels * taps * taps, dtype=x.dtype).view(channels, 1, taps, taps)
        bias = torch.linspace(-1, 1, channels, dtype=x.dtype)
        padding = (stride // 2, stride // 2)
        return kernel(x, weight, bias, (stride, stride), padding, (0, 0), channels, (1, 1), slope=slope)

    return run


def norm_gradient(x: Tensor) -> Tensor:
    grad, x = x.roll(1, -1), x.detach().requires_grad_()
    return torch.autograd.grad(ops.instance_norm(x, activation="relu"), x, grad)[0]


def unpool(x: Tensor) -> Tensor:
    values, indices = ops.max_pool2d_with_indices(x, 2)
    return ops.max_unpool2d(values, indices, 2, output_size=x.shape[2:])


OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "nearest_upsample by 2": lambda x: ops.nearest_upsample(x, 2),
    "nearest_upsample by 3": lambda x: ops.nearest_upsample(x, 3),
    "bed_of_nails_upsample by 2": lambda x: ops.bed_of_nails_upsample(x, 2),
    "bed_of_nails_upsample by 3": lambda x: ops.bed_of_nails_upsample(x, 3),
    "depthwise by 2": depthwise(2, 1.0),
    "depthwise by 4": depthwise(4, 0.1),
    "depthwise by 16": depthwise(16, 0.0),
    "max_unpool2d": unpool,
    "instance_norm": lambda x: ops.instance_norm(x, activation="relu"),
    "its gradient": norm_gradient,
}


# rows of outputs in whole lines and not, pixels in whole lines and not
@pytest.mark.parametrize("shape", [(16, 128, 128), (16, 65, 257), (21, 64, 172)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", OPS)
def test_a_batch_equals_its_images(
    name: str, layout: torch.memory_format, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    op = OPS[name]
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(5)).to(dtype, memory_format=layout)
    alone = op(image)
    assert image.nbytes + alone.nbytes < LARGE
    count = LARGE // alone.nbytes + 2
    images = (image * torch.arange(1, count + 1, dtype=dtype).view(-1, 1, 1, 1)).contiguous(memory_format=layout)
    together = op(images)
    assert together.nbytes > LARGE
    for one, expected in zip(together, map(op, images.split(1)), strict=True):
        assert torch.equal(one, expected[0])


def test_what_is_not_a_number_stays_so() -> None:
    x = torch.ones(max(8, LARGE >> 23), 64, 128, 128)
    assert 4 * x.nbytes > LARGE
    x[3, 5, 7, 9], x[4, 1, 2, 3], x[5, 0, 0, 0] = float("nan"), float("inf"), -0.0
    up = ops.nearest_upsample(x, 2)
    assert up.isnan().sum() == 4 and up[3, 5, 14:16, 18:20].isnan().all()
    assert up.isposinf().sum() == 4 and up[5, 0, :2, :2].signbit().all()
