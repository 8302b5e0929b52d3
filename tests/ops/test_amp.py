"""A net trained under autocast has the gradients of the same net without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fastvision import _library, ops
from fastvision.testing import data

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")


class Net(nn.Module):
    """Upsamples, pools, normalises and puts back; the style of what is upsampled and of what is put back."""

    def __init__(self) -> None:
        super().__init__()
        self.up = ops.ConvTranspose2d(8, 16, 3, 2, 1, 1)
        self.norm = ops.InstanceNorm2d(16, affine=True, activation="relu")
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: Tensor, targets: list[Tensor]) -> Tensor:
        up = self.up(x)
        pooled, indices = ops.max_pool2d_with_indices(up, 2)
        normal = self.norm(pooled)
        back = ops.max_unpool2d(normal, indices, 2)
        self.dtypes = [t.dtype for t in (up, pooled, normal, back)]
        return ops.style_loss([up, back], targets, [1.0, 0.5], normalize="hw")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_of_a_net_under_autocast(layout: Any, device: torch.device) -> None:
    torch.manual_seed(0)
    net = Net().to(device)
    x = data.feature_map(2, 8, 6, 9).mul(2).round().to(device).to(memory_format=layout).requires_grad_()
    with torch.no_grad():
        for t in net.up.parameters():  # whole numbers, exact in bfloat16: both find their maxima at the same places
            t.copy_(torch.randint(-2, 3, t.shape))
        net.norm.weight.uniform_(0.5, 1.5)
        net.norm.bias.uniform_(-0.5, 0.5)
    targets = [ops.gram_matrix(data.feature_map(1, 16, 6, 9, seed=s).to(device), "hw")[0] for s in (1, 2)]
    leaves = [x, *net.parameters()]
    expected_loss = net(x, targets)
    expected = torch.autograd.grad(expected_loss, leaves)
    assert set(net.dtypes) == {torch.float32}
    with torch.autocast(device.type, dtype=torch.bfloat16):
        loss = net(x, targets)
        actual = torch.autograd.grad(loss, leaves)
    assert set(net.dtypes) == {torch.bfloat16} and loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected_loss, rtol=0.01, atol=0)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32 and a.isfinite().all()
        assert (a - e).norm() < 0.01 * e.norm()
    assert actual[0].is_contiguous(memory_format=layout)
