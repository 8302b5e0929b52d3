"""The instrument under test: faults planted in a kernel have to show, and a right kernel has to pass."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1]
COMPILE = ["g++", "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-pthread",
           "-DFASTVISION_EMULATION", f"-I{CSRC / 'emulation'}", f"-I{CSRC}"]  # fmt: skip
SANITIZE = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-fno-omit-frame-pointer",
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[str]]:
    """The emulation itself, compiled without and with the sanitizers."""
    compiled = {}
    for sanitized in (False, True):
        folder = tmp_path_factory.mktemp("emulation")
        sources = sorted(map(str, (CSRC / "emulation").glob("*.cpp")))
        flags = SANITIZE if sanitized else []
        subprocess.run([*COMPILE, *flags, "-c", *sources], cwd=folder, check=True)
        compiled[sanitized] = sorted(map(str, folder.glob("*.o")))
    return compiled


@pytest.fixture
def run(objects: dict[bool, list[str]], tmp_path: Path) -> Run:
    def compile_and_run(source: str, *defines: str, sanitized: bool = False) -> subprocess.CompletedProcess[str]:
        program = tmp_path / "program"
        flags = (SANITIZE if sanitized else []) + [f"-D{define}" for define in defines]
        libraries = objects[sanitized]
        subprocess.run(
            [*COMPILE, *flags, "-x", "c++", HERE / source, "-x", "none", *libraries, "-o", program],
            check=True,
        )
        return subprocess.run([program], check=False, capture_output=True, text=True, timeout=60)

    return compile_and_run


@pytest.mark.parametrize("sanitized", [False, True], ids=["plain", "sanitized"])
@pytest.mark.parametrize("source", ["faults.cu", "semantics.cu"])
def test_right_kernels_pass(run: Run, source: str, sanitized: bool) -> None:
    done = run(source, sanitized=sanitized)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fault", ["FAULT_NO_BARRIER", "FAULT_SHIFTED_INDEX"])
def test_result_is_wrong_with_every_seed(run: Run, fault: str) -> None:
    done = run("faults.cu", fault)
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.parametrize("fault", ["FAULT_NO_BOUNDS_CHECK", "FAULT_SHARED_OVERRUN"])
def test_access_out_of_bounds_is_located(run: Run, fault: str) -> None:
    done = run("faults.cu", fault, sanitized=True)
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert re.search(r"#0 .* in smooth_and_sum.*faults\.cu:\d+", done.stderr), done.stderr


@pytest.mark.parametrize("sanitized", [False, True], ids=["plain", "sanitized"])
def test_deadlock_names_both_lines(run: Run, sanitized: bool) -> None:
    done = run("faults.cu", "FAULT_DEADLOCK", sanitized=sanitized)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "smooth_and_sum: deadlock" in done.stderr
    assert len(re.findall(r"\d+ at __syncthreads \(.*?faults\.cu:\d+\)", done.stderr)) == 2
