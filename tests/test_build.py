"""What the build says when something is missing: the message names it and how to get it. Configures only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

pytestmark = [
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="not in a source tree"),
    pytest.mark.skipif(CMAKE is None, reason="cmake is not installed"),
]

# what a C++ build calls; nvcc is left out
TOOLS = ["c++", "g++", "cc", "gcc", "as", "ld", "ar", "nm", "ranlib", "strip", "objdump", "objcopy", "readelf", "make"]


def no_compiler(folder: Path) -> Path:
    """A folder for the PATH with build tools, but nothing that compiles."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("make", "ninja"):
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    return tools


def no_nvcc(folder: Path) -> Path:
    """A folder for the PATH with a C++ compiler and no CUDA compiler."""
    tools = folder / "tools"
    tools.mkdir()
    for name in TOOLS:
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    return tools


def python_with(folder: Path, torch: str | None) -> Path:
    """A Python whose torch is an empty package of that version, or that has none."""
    home = folder / "python"
    venv.create(home, symlinks=True, with_pip=False)
    if torch is not None:
        paths = {"base": str(home), "platbase": str(home)}
        package = Path(sysconfig.get_path("purelib", vars=paths)) / "torch"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"__version__ = {torch!r}\n")
    return home / "bin" / "python"


def configure(folder: Path, *options: str, path: Path | None = None, **environment: str) -> tuple[int, str]:
    """(exit status, all that was printed, white space folded: CMake wraps its messages)."""
    cleaned = {k: v for k, v in os.environ.items() if k not in ("CXX", "CC", "CUDACXX", "CUDA_PATH", "CUDAARCHS")}
    if path is not None:
        cleaned["PATH"] = str(path)
    done = subprocess.run(
        [str(CMAKE), "-S", str(ROOT), "-B", str(folder / "build"), "-G", "Unix Makefiles", *options],
        env={**cleaned, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="session")
def pybind11_dir() -> str:
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
    return f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"


def test_no_torch(tmp_path: Path) -> None:
    python = python_with(tmp_path, None)
    status, text = configure(tmp_path, f"-DPython_EXECUTABLE={python}")
    assert status != 0
    assert f"fastvision needs torch >= 2.11 to build, and {python} cannot import it" in text
    assert "python -m pip install 'torch>=2.11'" in text


def test_old_torch(tmp_path: Path) -> None:
    status, text = configure(tmp_path, f"-DPython_EXECUTABLE={python_with(tmp_path, '2.10.1+cu128')}")
    assert status != 0
    assert "fastvision needs torch >= 2.11 to build; found 2.10.1" in text
    assert "python -m pip install 'torch>=2.11'" in text


def test_no_pybind11(tmp_path: Path) -> None:
    python = python_with(tmp_path, "2.14.1")
    # nor any that the system has
    options = [f"-DPython_EXECUTABLE={python}", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF"]
    status, text = configure(tmp_path, *options, path=no_nvcc(tmp_path))
    assert status != 0
    assert "fastvision needs pybind11 >= 2.13 to build" in text
    assert "python -m pip install 'pybind11>=2.13'" in text


def test_cxx_is_not_a_compiler(tmp_path: Path) -> None:
    status, text = configure(tmp_path, CXX="/nonexistent/g++")
    assert status != 0
    assert "fastvision needs a C++20 compiler" in text
    assert "apt-get install g++" in text


def test_no_compiler_on_the_path(tmp_path: Path) -> None:
    status, text = configure(tmp_path, path=no_compiler(tmp_path))
    assert status != 0
    assert "fastvision needs a C++20 compiler" in text


def test_cuda_on_without_nvcc(tmp_path: Path, pybind11_dir: str) -> None:
    python = python_with(tmp_path, "2.14.1")
    status, text = configure(
        tmp_path, f"-DPython_EXECUTABLE={python}", "-DFASTVISION_CUDA=ON", pybind11_dir, path=no_nvcc(tmp_path)
    )
    assert status != 0
    assert "FASTVISION_CUDA=ON, but no nvcc was found. Put it on the PATH or set CUDACXX." in text


def test_no_nvcc_is_a_cpu_build(tmp_path: Path, pybind11_dir: str) -> None:
    python = python_with(tmp_path, "2.14.1")
    status, text = configure(tmp_path, f"-DPython_EXECUTABLE={python}", pybind11_dir, path=no_nvcc(tmp_path))
    assert status == 0, text
    assert text.count("fastvision: CPU build, no nvcc found") == 1


def test_cuda_switched_off(tmp_path: Path, pybind11_dir: str) -> None:
    python = python_with(tmp_path, "2.14.1")
    status, text = configure(tmp_path, f"-DPython_EXECUTABLE={python}", "-DFASTVISION_CUDA=OFF", pybind11_dir)
    assert status == 0, text
    assert text.count("fastvision: CPU build (FASTVISION_CUDA=OFF)") == 1
