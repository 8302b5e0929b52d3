"""Every ``fastvision::`` op has all its parts: kernels on each device, a shape rule, a case, a reference, opcheck."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map_only

from fastvision import _library, ops
from fastvision.testing.case import OpCase
from fastvision.testing.cases import CASES

CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing is registered")


def registered() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name.removeprefix("fastvision::") for name in names if name.startswith("fastvision::"))


def test_ops_are_registered() -> None:
    assert "nms" in registered() and "roi_align_backward" in registered()


@pytest.mark.parametrize("name", registered())
def test_kernels(name: str) -> None:
    keys = ["CPU", "Meta"] + (["CUDA"] if _library.build_info()["cuda"] else [])
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    for key in keys:
        assert has(f"fastvision::{name}", key), f"fastvision::{name} has no {key} kernel"


@pytest.mark.parametrize("name", registered())
def test_every_op_has_a_case(name: str) -> None:
    assert [c.name for c in CASES if name in c.torch_ops], f"fastvision::{name} is in no OpCase"


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_public_op_and_reference_agree_on_the_signature(case: OpCase) -> None:
    assert case.name in ops.__all__
    public, plain = inspect.signature(case.op), inspect.signature(case.op.reference)  # type: ignore[attr-defined]
    assert [(p.name, p.kind, p.default) for p in public.parameters.values()] == [
        (p.name, p.kind, p.default) for p in plain.parameters.values()
    ]


@pytest.mark.parametrize("name", ops.__all__)
def test_signature_begins_with_torchvisions(name: str) -> None:
    """So that changing an import is all it takes."""
    torchvision = pytest.importorskip("torchvision", reason="torchvision is the oracle here, not a requirement")
    theirs = getattr(torchvision.ops, name, None)
    if theirs is None:
        return  # fastvision's own
    expected = [(p.name, p.default) for p in inspect.signature(theirs).parameters.values()]
    actual = list(inspect.signature(getattr(ops, name)).parameters.values())
    assert [(p.name, p.default) for p in actual[: len(expected)]] == expected
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in actual[len(expected) :])


@pytest.mark.skipif(not CHANGELOG.exists(), reason="an installed package has no changelog")
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_changelog_names_the_op(case: OpCase) -> None:
    assert f"`{case.name}`" in CHANGELOG.read_text()


class _Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps the arguments of every fastvision op that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastvision":
            self.calls.append((func, tree_map_only(torch.Tensor, torch.Tensor.detach, tuple(args))))
        return func(*args, **(kwargs or {}))


def _leaves(values: Any) -> Any:
    return tree_map_only(torch.Tensor, _leaf, values)


def _leaf(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().clone(memory_format=torch.preserve_format)
    return value.requires_grad_(value.is_floating_point())


_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_opcheck(case: OpCase, device: torch.device) -> None:
    """torch's own check of schema, fake kernel, autograd registration and tracing, for every op the case is made of."""
    seen: set[str] = set()
    samples = list(case.gradient_samples(device)) if case.gradient_samples else []
    samples += list(case.samples(device, torch.float32))[-7:]
    for i, sample in enumerate(samples):
        # tracing takes nine tenths of the time: the first two, and the last three, which are at the edges
        checks = _CHECKS if i < 2 or i >= len(samples) - 3 else _CHECKS[:-1]
        args = [_leaves(a) if i in case.differentiable else a for i, a in enumerate(sample.args)]
        with _Recorder() as recorder:
            out = case.op(*args, **sample.kwargs)
            if case.differentiable:
                out.sum().backward()
        for op, op_args in recorder.calls:
            name = op._schema.name.removeprefix("fastvision::")
            seen.add(name)
            # only a linear op's backward can be differentiated again
            leaves = case.differentiable and (case.linear or not name.endswith(("_backward", "_gradients")))
            torch.library.opcheck(op, _leaves(op_args) if leaves else op_args, test_utils=checks)
    # those in place serve a shortcut of eager calls on a GPU, and are checked with their op's tests
    expected = {name for name in case.torch_ops if not name.endswith("_")}
    # of what kernels of ours are for the CPU alone, torch's own op may be called there, without ours around it
    optional = _library.by_torch_on_gpu if device.type == "cuda" else set()
    assert expected - optional <= seen <= expected
