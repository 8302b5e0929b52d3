"""``fastvision doctor``: what was found, and why the compiled library did not load."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys

import torch

from fastvision import __version__, _library

HELP = "say which Python, torch, CUDA and compiled library were found, and why a load failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace) -> int:
    """0 if the native library is loaded, 1 otherwise."""
    rows = [
        ("python", f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"),
        ("torch", f"{torch.__version__}, built {_torch_build()}"),
        ("gpu", _gpus()),
        ("torchvision", _torchvision()),
        ("fastvision", f"{__version__}, running on its {_library.BACKEND} backend"),
        ("library", _built()),
    ]
    for name, value in rows:
        print(f"{name:12} {value}")
    if _library.BACKEND == "native":
        return 0
    print(f"\nThe compiled library is not in use: {_reason()}\nTo do: {_advice()}")
    return 1


def _torch_build() -> str:
    return f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU only"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use (no NVIDIA driver, no device, or a torch built for the CPU)"
    found = []
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        found.append(f"{torch.cuda.get_device_name(i)} (sm_{major}{minor})")
    return ", ".join(found)


def _torchvision() -> str:
    try:
        module = importlib.import_module("torchvision")
        has_ops = importlib.import_module("torchvision.extension")._has_ops()
    except ModuleNotFoundError as error:
        return "not installed" if error.name == "torchvision" else f"cannot be imported ({error})"
    except Exception as error:
        # one built for another torch fails in many ways; each is worth a line and none should stop the doctor
        return f"cannot be imported ({type(error).__name__}: {_line(error)})"
    return f"{module.__version__}, its own compiled ops {'loaded' if has_ops else 'failed to load'}"


def _built() -> str:
    info = _library.build_info()
    if not info:
        return "none loaded"
    architectures = str(info.get("cuda_architectures", "")).replace(";", ", ") or "unknown"
    cuda = f"CUDA architectures {architectures}" if info.get("cuda") else "CPU only"
    cpu = f"CPU kernels {info.get('cpu_capability', 'unknown')}"
    return f"{cuda}; {cpu}; torch ABI {info.get('torch_abi', 'unknown')}, compiler {info.get('compiler', 'unknown')}"


def _reason() -> str:
    if _library.LOAD_ERROR is not None:
        return _line(_library.LOAD_ERROR)
    return f"FASTVISION_BACKEND={os.environ.get('FASTVISION_BACKEND')} asks for another backend"


def _advice() -> str:
    error = _library.LOAD_ERROR
    if error is None or "FASTVISION_BACKEND" in error:
        return "unset FASTVISION_BACKEND, or set it to native."
    if error.startswith(("ModuleNotFoundError", "FileNotFoundError")):
        return "build it: `make build` in a source checkout, or install a wheel for this Python and platform."
    if "undefined symbol" in error or "symbol not found" in error.lower():
        return f"install torch 2.11 or newer (this is {torch.__version__}), or build fastvision against this torch."
    if "file too short" in error or "ELF header" in error:
        return "the file is damaged: reinstall with `pip install --force-reinstall --no-deps fastvision`."
    return "reinstall fastvision; if that does not help, build it from source with `pip install .`."


def _line(message: object) -> str:
    return " ".join(str(message).split())
