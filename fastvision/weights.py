"""Trained weights that package registries carry: downloaded once, verified, cached, loaded as tensors only.

A name leads to files inside the wheel of a pinned package version. The wheel is fetched with ``pip download`` (so with
whatever index, mirror or proxy pip is set up for), never installed, and only the listed files are kept, under
``$FASTVISION_CACHE`` or ``~/.cache/fastvision``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_DOWNLOAD_SECONDS = 600


class WeightsError(RuntimeError):
    """Weights that are unknown, cannot be had or are not what they should be; the text is one line."""


@dataclass(frozen=True)
class File:
    """One file of a wheel."""

    member: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from.

    Attributes:
        package: name on the package registry.
        version: the one version that is used.
        files: part of the model -> file in the package's wheel.
        licence: of the package, as it states it.
    """

    package: str
    version: str
    files: Mapping[str, File]
    licence: str


REGISTRY: Mapping[str, Source] = {
    "mtcnn": Source(
        package="facenet-pytorch",
        version="2.6.0",
        files={
            "pnet": File(
                "facenet_pytorch/data/pnet.pt", "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f"
            ),
            "rnet": File(
                "facenet_pytorch/data/rnet.pt", "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86"
            ),
            "onet": File(
                "facenet_pytorch/data/onet.pt", "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d"
            ),
        },
        licence="MIT",
    ),
}


def cache_dir() -> Path:
    """``$FASTVISION_CACHE``, or ``~/.cache/fastvision``."""
    return Path(os.environ.get("FASTVISION_CACHE") or Path.home() / ".cache" / "fastvision").expanduser()


def fetch(name: str) -> dict[str, Path]:
    """The verified files of ``REGISTRY[name]`` by part, downloaded where the cache lacks them.

    Several processes may fetch at once: a file appears in the cache whole or not at all.

    Raises:
        WeightsError: an unknown name, a failed download, a wheel whose file is missing or another, an unusable cache.
    """
    if name not in REGISTRY:
        raise WeightsError(f"weights: expected one of {', '.join(sorted(REGISTRY))}, got {name!r}")
    source = REGISTRY[name]
    folder = cache_dir() / f"{source.package}-{source.version}"
    paths = {part: folder / Path(file.member).name for part, file in source.files.items()}
    try:
        if not all(_is_intact(paths[part], file) for part, file in source.files.items()):
            folder.mkdir(parents=True, exist_ok=True)
            for part, content in _download(name, source).items():
                _write_atomically(paths[part], content)
    except OSError as error:
        raise WeightsError(f"weights {name}: the cache {folder} cannot be used ({error})") from error
    return paths


def load(name: str) -> dict[str, dict[str, Tensor]]:
    """The state dict of every part of ``REGISTRY[name]``, on the CPU. Pickled code is refused, not run.

    Raises:
        WeightsError: as :func:`fetch`.
    """
    return {part: torch.load(path, map_location="cpu", weights_only=True) for part, path in fetch(name).items()}


def _is_intact(path: Path, file: File) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


def _download(name: str, source: Source) -> dict[str, bytes]:
    """The contents of the source's files, each with the hash it should have."""
    requirement = f"{source.package}=={source.version}"
    with tempfile.TemporaryDirectory() as folder:
        _pip_download(name, requirement, folder)
        wheels = sorted(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise WeightsError(f"weights {name}: expected one wheel of {requirement}, got {len(wheels)}")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                contents = {part: wheel.read(file.member) for part, file in source.files.items()}
        except (zipfile.BadZipFile, KeyError) as error:
            raise WeightsError(f"weights {name}: the wheel of {requirement} is not as expected ({error})") from error
    for part, file in source.files.items():
        actual = hashlib.sha256(contents[part]).hexdigest()
        if actual != file.sha256:
            raise WeightsError(
                f"weights {name}: expected sha256 {file.sha256} of {file.member} in {requirement}, got {actual}"
            )
    return contents


def _pip_download(name: str, requirement: str, folder: str) -> None:
    """Wheels only: building a source distribution would run its code."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", folder, requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"weights {name}: downloading {requirement} took more than {_DOWNLOAD_SECONDS} s") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1])
        raise WeightsError(f"weights {name}: {requirement} could not be downloaded (pip: {reason})")


def _write_atomically(path: Path, content: bytes) -> None:
    """Through a file of its own in the same folder, so that two processes never share a half-written one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
