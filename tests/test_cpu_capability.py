"""CPU kernels are compiled for several instruction sets; what this processor would not choose is tested here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastvision import _library

pytestmark = pytest.mark.skipif(_library.BACKEND != "native", reason="the CPU kernels are the native library's")

# every op on ordinary samples, and its gradient, against plain PyTorch
EQUALS_THE_REFERENCE = """
import sys
import torch
from fastvision import _library
from fastvision.testing.cases import CASES
from torch.utils._pytree import tree_leaves

assert _library.build_info()["cpu_capability"] == sys.argv[1], _library.build_info()
cpu, compared = torch.device("cpu"), 0
for case in CASES:
    rtol, atol = case.tolerances[torch.float32]
    for sample in list(case.samples(cpu, torch.float32))[:4]:
        some = sample.args
        if case.differentiable:
            some = [a.detach().requires_grad_() if isinstance(a, torch.Tensor) and i in case.differentiable else a
                    for i, a in enumerate(some)]
        found = tree_leaves([op(*some, **sample.kwargs) for op in (case.op, case.op.reference)])
        found = [f for f in found if isinstance(f, torch.Tensor)]
        pairs = list(zip(found[: len(found) // 2], found[len(found) // 2 :], strict=True))
        leaves = [a for a in some if isinstance(a, torch.Tensor) and a.requires_grad]
        if leaves:
            pairs += zip(*(torch.autograd.grad(f.sum(), leaves) for f in found), strict=True)
        for actual, expected in pairs:
            torch.testing.assert_close(actual, expected, rtol=10 * rtol, atol=10 * atol, equal_nan=True,
                                       msg=lambda text, s=sample, c=case: f"{c.id}, {s.name}: {text}")
            compared += 1
print(compared)
"""


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "AVX512"])
def test_equals_the_reference(capability: str) -> None:
    here = ["DEFAULT", "AVX2", "AVX512"].index(str(_library.build_info()["cpu_capability"]))
    if ["DEFAULT", "AVX2", "AVX512"].index(capability) >= here:
        pytest.skip(f"all other tests run the widest, or this processor has no {capability}")
    done = subprocess.run(
        [sys.executable, "-c", EQUALS_THE_REFERENCE, capability],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability.lower(), "FASTVISION_BACKEND": "native"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) > 300
