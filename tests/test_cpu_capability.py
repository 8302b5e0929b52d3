"""The op cases once more, on the CPU kernels of instruction sets that this processor would not choose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastvision import _library

pytestmark = pytest.mark.skipif(_library.BACKEND != "native", reason="the CPU kernels are the native library's")

CAPABILITIES = ["DEFAULT", "AVX2", "AVX512"]  # from the narrowest, as torch names them
# every op in float32, and those whose loops are written for one size of numbers in all
SOME = "the_reference and (float32 or instance_norm or max_unpool2d or conv_transpose2d or gram_matrix)"
CASES = Path(__file__).parent / "ops" / "test_cases.py"
FILES = [CASES.with_name(name) for name in ("test_max_unpool2d.py", "test_instance_norm.py", "test_large_outputs.py")]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_equals_the_reference(capability: str) -> None:
    here = str(_library.build_info()["cpu_capability"])
    if capability == here:
        pytest.skip("the kernels that all other tests run")
    if CAPABILITIES.index(capability) > CAPABILITIES.index(here):
        pytest.skip(f"this processor has no {capability}")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability.lower(), "FASTVISION_BACKEND": "native"}

    def python(*arguments: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    assert f"CPU kernels {capability};" in python("-m", "fastvision", "doctor")
    for tests in ([CASES, "-k", SOME], FILES):
        python("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
