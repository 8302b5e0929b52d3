"""One wheel, several torches: installs the same file beside each torch and runs the op tests there.

The tests run from a copy outside the source tree, so that only the installed wheel can be imported.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENVS = ROOT / "build" / "abi"
# the op tests compare with torchvision where there is one; a torchvision belongs to one torch
TORCHVISION = {"2.14.1": "0.29.1"}

FACTS = """
import sys, warnings
warnings.simplefilter("error")
import torch, fastvision
from fastvision._library import build_info
assert fastvision.__file__.startswith(sys.prefix), fastvision.__file__
assert fastvision.BACKEND == "native", fastvision.BACKEND
print("torch", torch.__version__, "| built for CUDA:", torch.version.cuda, "|", build_info())
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_contents(wheel: Path) -> None:
    """A wheel has exactly one compiled library, _C, with no path of this machine in it, and none of the tests."""
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    libraries = [name for name in names if name.endswith(".so")]
    if len(libraries) != 1 or not libraries[0].startswith("fastvision/_C."):
        sys.exit(f"{wheel.name}: expected one compiled library, fastvision/_C.*.so, got {libraries}")
    # an error text must not show where the library was built
    leaks = [path for path in (ROOT, Path(sys.prefix)) if str(path).encode() in archive.read(libraries[0])]
    if leaks:
        sys.exit(f"{wheel.name}: paths of the build in {libraries[0]}: {leaks}")
    strays = [name for name in names if not name.startswith(("fastvision/", "fastvision-"))]
    if strays:
        sys.exit(f"{wheel.name}: files outside the package: {strays}")


def run(*command: str | Path, **kwargs: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **kwargs)  # type: ignore[call-overload]


def prepare(torch: str) -> Path:
    """The Python of a virtual environment with this torch and the test tools; made once."""
    venv = VENVS / f"torch-{torch}"
    python = venv / "bin" / "python"
    stamp = venv / ".complete"
    if not stamp.exists():
        start = time.monotonic()
        shutil.rmtree(venv, ignore_errors=True)
        run(sys.executable, "-m", "venv", venv)
        requirements = subprocess.run(
            [sys.executable, ROOT / "scripts" / "dependencies.py", "run", "test"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        pins = [f"torch=={torch}"] + [f"torchvision=={v}" for t, v in TORCHVISION.items() if t == torch]
        run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *pins, *requirements)
        stamp.touch()
        print(f"environment for torch {torch}: {time.monotonic() - start:.0f} s", flush=True)
    return python


def test(python: Path, wheel: Path, jobs: str) -> None:
    # no index is asked: everything the wheel needs is there already
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps",
        "--force-reinstall", wheel)  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("FASTVISION_", "PYTHON"))}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "tests", Path(folder) / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        run(python, "-c", FACTS, cwd=folder, env=environment)
        pytest = ["-q", "-n", jobs, "--timeout", "600", "tests/ops", "tests/test_registry.py"]
        run(python.with_name("pytest"), *pytest, cwd=folder, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", nargs="+", required=True)
    parser.add_argument("--jobs", default="2")
    options = parser.parse_args()
    wheel = options.wheel.resolve()
    check_contents(wheel)
    before = sha256(wheel)
    with ThreadPoolExecutor(2) as pool:
        pythons = dict(zip(options.torch, pool.map(prepare, options.torch), strict=True))
    for torch, python in pythons.items():
        print(f"\n== torch {torch}: {wheel.name}\n   sha256 {sha256(wheel)}", flush=True)
        test(python, wheel, options.jobs)
    if sha256(wheel) != before:
        sys.exit(f"{wheel.name} changed while it was tested")
    print(f"\nthe same file, sha256 {before}, passed with torch {' and '.join(options.torch)}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed with status {error.returncode}: {' '.join(map(str, error.cmd[:6]))[:200]}")
