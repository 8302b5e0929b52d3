"""instance_norm with a style for each image, and the modules against torch.nn's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from style_checks import affine, value_and_gradients
from torch import nn

import fastvision
from fastvision import ops
from fastvision.testing import data

LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


@LAYOUTS
def test_a_conditional_batch_is_one_call_an_image(layout: Any, device: torch.device) -> None:
    x = data.feature_map(4, 20, 12, 11).to(device).to(memory_format=layout)
    weight, bias = (t.to(device) for t in affine(3, 20))
    style = torch.tensor([2, 0, 2, 1], device=device)
    out = ops.instance_norm(x, weight, bias, activation="relu", style=style)
    for n, row in enumerate(style.tolist()):
        alone = ops.instance_norm(x[n : n + 1], weight[row], bias[row], activation="relu")
        assert torch.equal(out[n : n + 1], alone)
    gradients = value_and_gradients(lambda *t: ops.instance_norm(*t, style=style), x, weight, bias)[1:]
    expected = value_and_gradients(
        lambda x, w, b: torch.cat([ops.instance_norm(x[n : n + 1], w[s], b[s]) for n, s in enumerate(style.tolist())]),
        x,
        weight,
        bias,
    )[1:]
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_style_out_of_range(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    x = data.feature_map(3, 5, 6, 7).to(device)
    weight, bias = (t.to(device) for t in affine(4, 5))
    message = r"instance_norm: expected style\[1\] in \[0, 4\), got (4|-1)"
    for row in (4, -1):
        style = torch.tensor([3, row, 0], device=device)
        if device.type == "cpu" and fastvision.BACKEND == "native":
            with pytest.raises(IndexError, match=message):
                ops.instance_norm(x, weight, bias, style=style)
            continue
        out, *gradients = value_and_gradients(lambda *t, s=style: ops.instance_norm(*t, style=s), x, weight, bias)
        assert not out[1].any() and not gradients[0][1].any() and out[0].any() and out[2].any()
        for gradient in gradients[1:]:
            assert gradient[[0, 3]].all() and not gradient[[1, 2]].any()
    monkeypatch.setenv("FASTVISION_CHECK", "1")
    with pytest.raises(IndexError, match=message):
        ops.instance_norm(x, weight, bias, style=style)


def test_second_derivative_with_a_style_out_of_range(device: torch.device) -> None:
    if device.type == "cpu" and fastvision.BACKEND == "native":
        pytest.skip("raises in the forward")
    leaves = [t.to(device).requires_grad_() for t in (data.feature_map(2, 3, 4, 4), *affine(2, 3))]
    out = ops.instance_norm(*leaves, style=torch.tensor([1, 5], device=device))
    first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    assert not second[0][1].any() and all(g.isfinite().all() for g in second)


@pytest.mark.parametrize("kwargs", [{}, {"affine": True}, {"affine": True, "track_running_stats": True}], ids=str)
def test_module_is_torchs(kwargs: Any, device: torch.device) -> None:
    ours, theirs = ops.InstanceNorm2d(6, 1e-4, **kwargs).to(device), nn.InstanceNorm2d(6, 1e-4, **kwargs).to(device)
    assert isinstance(ours, nn.InstanceNorm2d) and repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x = data.feature_map(3, 6, 8, 9).to(device)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        torch.testing.assert_close(ours(x), theirs(x))
        torch.testing.assert_close(ours(x[0]), theirs(x[0]))  # unbatched
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="expected 3D or 4D input"):
        ours(x[0, 0])


def test_module_with_an_activation(device: torch.device) -> None:
    x = data.feature_map(3, 6, 8, 9).to(device)
    for kwargs in ({}, {"track_running_stats": True}):
        module = ops.InstanceNorm2d(6, activation="leaky_relu", leaky_slope=0.3, **kwargs).to(device)
        torch.testing.assert_close(module(x), F.leaky_relu(F.instance_norm(x), 0.3))
        assert repr(module).endswith(", activation='leaky_relu', leaky_slope=0.3)")
    assert repr(ops.InstanceNorm2d(6, activation="relu")).endswith(", activation='relu')")
    with pytest.raises(ValueError, match="expected activation"):
        ops.InstanceNorm2d(6, activation="swish")


def test_conditional_module(device: torch.device) -> None:
    module = ops.ConditionalInstanceNorm2d(6, 4, activation="relu").to(device)
    assert {name: t.shape for name, t in module.state_dict().items()} == {"weight": (4, 6), "bias": (4, 6)}
    assert repr(module) == "ConditionalInstanceNorm2d(6, num_styles=4, eps=1e-05, activation='relu')"
    x, style = data.feature_map(2, 6, 8, 9).to(device), torch.tensor([3, 0], device=device)
    torch.testing.assert_close(module(x, style), F.relu(F.instance_norm(x)))
    nn.init.normal_(module.weight)
    module(x, style).sum().backward()
    assert module.weight.grad is not None and module.bias.grad is not None
    assert module.weight.grad[[3, 0]].any(1).all() and not module.weight.grad[[1, 2]].any()
