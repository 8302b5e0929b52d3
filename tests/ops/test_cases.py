"""Every op case: values and gradients against plain PyTorch, opcheck, gradcheck, torch.compile."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from case_calls import call, differentiated
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from fastvision import _library
from fastvision.testing.case import DTYPES, OpCase, Sample
from fastvision.testing.cases import CASES

pytestmark = pytest.mark.skipif(not _library.LOADED, reason="no compiled library is loaded: nothing to compare")
by_name = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
differentiable = pytest.mark.parametrize("case", [c for c in CASES if c.differentiable], ids=lambda c: c.id)
traceable = pytest.mark.parametrize("case", [c for c in CASES if c.traceable], ids=lambda c: c.id)
CPU = torch.device("cpu")
EMULATED = _library.BACKEND == "emulated"


def is_full(sample: Sample) -> bool:
    return all(len(a) for a in sample.args[:2] if isinstance(a, (Tensor, list)))


def widened(sample: Sample) -> Sample:
    """The same numbers in float64, floating tensors only."""

    def widen(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return Sample(sample.name, tree_map(widen, sample.args), sample.kwargs)


def assert_close(case: OpCase, sample: Sample, actual: Any, expected: Any) -> None:
    """Same structure, shapes and dtypes; indices and masks equal, numbers within the tolerances."""
    found, structure = tree_flatten(actual)
    wanted, wanted_structure = tree_flatten(expected)
    assert structure == wanted_structure, sample.name
    for a, e in zip(found, wanted, strict=True):
        if not isinstance(a, Tensor):
            assert a == e, sample.name
            continue
        assert a.shape == e.shape and a.dtype == e.dtype, sample.name
        if case.exact or not a.dtype.is_floating_point:
            assert torch.equal(a, e), f"{sample.name}: {a.tolist()} != {e.tolist()}"
            continue
        rtol, atol = case.tolerances[a.dtype]
        torch.testing.assert_close(
            a.double(), e.double(), rtol=rtol, atol=atol, equal_nan=True, msg=lambda m: f"{sample.name}: {m}"
        )


@by_name
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_reference(case: OpCase, dtype: torch.dtype, device: torch.device) -> None:
    for sample in case.samples(device, dtype):
        assert_close(case, sample, call(case.op, sample), call(case.op.reference, sample))


@differentiable
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_equal_the_reference(case: OpCase, dtype: torch.dtype, device: torch.device) -> None:
    for sample in case.samples(device, dtype):
        grads = []
        out_dtype = call(case.op, sample).dtype  # what flows back is rounded to it
        for op, one in ((case.op, sample), (case.op.reference, widened(sample))):
            leaves, function = differentiated(case, one)
            out = function(op, *leaves)
            weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=device).reshape(out.shape)
            grads.append(torch.autograd.grad((out.double() * weight).sum(), leaves))
        for actual, expected in zip(*grads, strict=True):
            assert actual.shape == expected.shape
            rtol, atol = max(case.tolerances[actual.dtype], case.tolerances[out_dtype])
            scale = max(1.0, float(expected.abs().nan_to_num(0, 0, 0).max())) if expected.numel() else 1.0
            torch.testing.assert_close(
                actual.double(),
                expected.double(),
                rtol=rtol,
                atol=atol * scale,
                equal_nan=True,
                msg=lambda m, s=sample: f"{s.name}: {m}",
            )


@differentiable
def test_gradcheck(case: OpCase, device: torch.device) -> None:
    assert case.gradient_samples is not None
    # entry by entry takes thousands of calls; emulated, in random directions, as test_gradients_equal_the_reference
    # compares each entry
    for sample in case.gradient_samples(device):
        leaves, call_op = differentiated(case, sample)
        function = functools.partial(call_op, case.op)
        assert torch.autograd.gradcheck(function, tuple(leaves), check_forward_ad=case.linear, fast_mode=EMULATED)
        if case.linear:
            # in random directions: the first derivative was just checked
            assert torch.autograd.gradgradcheck(function, tuple(leaves), fast_mode=True)
        else:
            out = function(*leaves)
            grads = torch.autograd.grad(out.sum(), leaves, create_graph=True)
            with pytest.raises(RuntimeError, match="no second derivative"):
                torch.autograd.grad(sum(g.sum() for g in grads), leaves)


@traceable
@pytest.mark.skipif(EMULATED, reason="graphs know nothing of the kernels: traced with the native ones")
def test_torch_compile(case: OpCase, device: torch.device) -> None:
    samples = list(case.samples(device, torch.float32))
    full = [sample for sample in samples if is_full(sample)]
    # symbolic sizes make a graph of several maps ten times as slow to trace: two samples of them, the rest as they are
    for dynamic, some in ((True, [full[0], full[-1]]), (False, samples[-6:])):
        compiled = torch.compile(case.op, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for sample in some:
            assert_close(case, sample, call(compiled, sample), call(case.op, sample))
        torch._dynamo.reset()


@traceable
def test_torch_export(case: OpCase, device: torch.device) -> None:
    class Model(torch.nn.Module):
        def __init__(self, rest: tuple[Any, ...], kwargs: Any) -> None:
            super().__init__()
            self.rest, self.kwargs = rest, dict(kwargs)

        def forward(self, *tensors: Any) -> Any:
            return call(case.op, Sample("", (*tensors, *self.rest), self.kwargs))

    sample = next(filter(is_full, case.samples(device, torch.float32)))
    tensors = tuple(itertools.takewhile(lambda a: isinstance(a, (Tensor, list)), sample.args))
    model = Model(sample.args[len(tensors) :], sample.kwargs)
    exported = torch.export.export(model, tensors)
    assert_close(case, sample, exported.module()(*tensors), model(*tensors))


@by_name
def test_half_types_are_stored_as_half(case: OpCase, device: torch.device) -> None:
    """Within an autocast region nothing is cast to float32 behind the caller's back."""
    for sample in list(case.samples(device, torch.bfloat16))[:3]:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            inside = call(case.op, sample)
        assert_close(case, sample, inside, call(case.op, sample))


@by_name
def test_docstring_has_its_sections(case: OpCase) -> None:
    text = case.op.__doc__ or ""
    for section in ("Shapes:", "Raises:", "Reference:"):
        assert section in text, f"{case.name}: no section {section}"


@pytest.mark.parametrize(
    "case", [c for c in CASES if not c.differentiable and not c.gradients_elsewhere], ids=lambda c: c.id
)
def test_what_is_not_differentiable_requires_no_gradient(case: OpCase, device: torch.device) -> None:
    """Rather than that backward() runs and leaves every gradient empty."""

    def leaf(value: Any) -> Any:
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().clone().requires_grad_() if is_number else value

    for sample in case.samples(device, torch.float32):
        args, kwargs = tree_map(leaf, (sample.args, dict(sample.kwargs)))
        for op in (case.op, case.op.reference):
            found = tree_flatten(op(*args, **kwargs))[0]
            assert not any(isinstance(t, Tensor) and t.requires_grad for t in found), sample.name
