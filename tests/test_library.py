"""How the compiled library is chosen, and what happens where it cannot be loaded. Each in a Python of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import fastvision

SOURCES = Path(fastvision.__file__).parent
SCRIPT = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastvision, torch
    boxes = torch.tensor([[0., 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    keep = fastvision.ops.nms(boxes, torch.tensor([.5, .9, .1]), 0.5)
    pooled = fastvision.ops.roi_align(torch.ones(1, 1, 4, 4), torch.tensor([[0., 0, 0, 4, 4]]), 2)
print(fastvision.__file__)
print(fastvision.BACKEND)
print(keep.tolist(), pooled.flatten().tolist())
for warning in caught:
    if "fastvision" in str(warning.message):
        print(warning.category.__name__, warning.message)
"""


def python(folder: Path, *arguments: str, backend: str = "native") -> subprocess.CompletedProcess[str]:
    """Python with the package of ``folder``."""
    environment = os.environ | {"FASTVISION_BACKEND": backend, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package whose compiled library is garbage."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(SOURCES, folder / "fastvision", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (folder / "fastvision" / f"_C{EXTENSION_SUFFIXES[0]}").write_bytes(b"garbage")
    return folder


def report(done: subprocess.CompletedProcess[str]) -> tuple[str, str, str, list[str]]:
    """Where the package came from, its backend, what its ops gave, its warnings."""
    assert done.returncode == 0, done.stderr
    place, backend, results, *warnings = done.stdout.splitlines()
    return place, backend, results, warnings


def test_reference_backend_loads_nothing_and_says_nothing() -> None:
    _, backend, results, warnings = report(python(SOURCES.parent, "-c", SCRIPT, backend="reference"))
    assert backend == "reference" and not warnings
    assert results == "[1, 2] [1.0, 1.0, 1.0, 1.0]"


def test_unknown_backend_is_named() -> None:
    _, backend, results, (warning,) = report(python(SOURCES.parent, "-c", SCRIPT, backend="imaginary"))
    assert backend == "reference" and results.startswith("[1, 2]")
    assert warning.startswith("RuntimeWarning") and "FASTVISION_BACKEND='imaginary'" in warning


def test_unloadable_library_leaves_the_reference(broken: Path) -> None:
    place, backend, results, warnings = report(python(broken, "-c", SCRIPT))
    assert Path(place).parent == broken / "fastvision"
    assert backend == "reference" and results == "[1, 2] [1.0, 1.0, 1.0, 1.0]"
    (warning,) = warnings
    assert warning.startswith("RuntimeWarning") and "ImportError" in warning and "file too short" in warning


def test_doctor_says_why_it_did_not_load(broken: Path) -> None:
    done = python(broken, "-m", "fastvision", "doctor")
    assert done.returncode == 1
    assert "file too short" in done.stdout and "To do: the file is damaged" in done.stdout


def test_doctor_says_that_it_was_never_built(broken: Path, tmp_path: Path) -> None:
    shutil.copytree(broken / "fastvision", tmp_path / "fastvision", ignore=shutil.ignore_patterns("*.so"))
    done = python(tmp_path, "-m", "fastvision", "doctor")
    assert done.returncode == 1 and "To do: build it" in done.stdout
