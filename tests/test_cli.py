"""The ``fastvision`` command: exit codes and one-line errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from data_requirements import astronaut, require_module, require_weights

import fastvision
from fastvision.cli import detect, main
from fastvision.models import MTCNN


@pytest.fixture
def image_module() -> Any:
    return require_module("PIL.Image")


@pytest.fixture
def photo(image_module: Any, tmp_path: Path) -> Path:
    path = tmp_path / "grey.png"
    image_module.new("RGB", (40, 30), "grey").save(path)
    return path


@pytest.fixture
def random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "MTCNN", lambda: MTCNN(weights=None, thresholds=(1.0, 1.0, 1.0)))


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that exits with 2."""
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastvision detect: ")
    return line


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    printed = capsys.readouterr().out
    assert code == (0 if fastvision.BACKEND == "native" else 1)
    assert torch.__version__ in printed and f"{fastvision.BACKEND} backend" in printed
    for name in ("python", "gpu", "torchvision", "library"):
        assert any(line.startswith(name) for line in printed.splitlines())
    assert ("To do:" in printed) == (code == 1)


def test_python_dash_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastvision", "detect", str(tmp_path / "none.png")],
        cwd=Path(fastvision.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "does not exist" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["detect"], ["nothing"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: fastvision" in capsys.readouterr().err


def test_missing_photo(image_module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in fails(capsys, "detect", tmp_path / "none.png")


def test_not_an_image(image_module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("words")
    assert "is not an image" in fails(capsys, "detect", tmp_path / "text.png")


def test_truncated_image(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo.write_bytes(photo.read_bytes()[:-30])
    assert "cannot be read" in fails(capsys, "detect", photo)


def test_folder_without_images(image_module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("words")
    assert "holds no images" in fails(capsys, "detect", tmp_path)


def test_without_weights(photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVISION_CACHE", str(photo.parent / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "could not be downloaded" in fails(capsys, "detect", photo)


@pytest.mark.usefixtures("random_weights")
@pytest.mark.parametrize("output", ["none/out.png", "out.unknown", "", "grey.png", "grey.png/out.png"])
def test_unwritable_output(photo: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = photo.read_bytes()
    fails(capsys, "detect", photo, "--output", photo.parent / output)
    assert photo.read_bytes() == before


@pytest.mark.usefixtures("random_weights")
def test_photo_without_faces(photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (photo.parent / "here").mkdir()
    monkeypatch.chdir(photo.parent / "here")
    assert main(["detect", str(photo)]) == 0
    assert "0 face(s)" in capsys.readouterr().out
    assert Path("grey_faces.png").exists()


@pytest.mark.usefixtures("random_weights")
def test_folder(photo: Path, image_module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = photo.parent
    image_module.open(photo).save(folder / "grey.bmp")  # the same name but for the ending
    image_module.open(photo).convert("L").save(folder / "other.jpg")
    (folder / "broken.png").write_text("words")
    for _ in range(2):  # the second time the pictures of the first are there and are not taken for photos
        assert main(["detect", str(folder), "--output", str(folder)]) == 2
        printed = capsys.readouterr()
        assert printed.out.count("face(s)") == 3 and printed.err.count("\n") == 1 and "broken.png" in printed.err
    written = {path.name for path in folder.glob("*_faces.png")}
    assert written == {"grey_png_faces.png", "grey_bmp_faces.png", "other_faces.png"}


def test_the_astronaut(image_module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_weights("mtcnn")
    photo, output = tmp_path / "astronaut.png", tmp_path / "out.jpg"
    image_module.fromarray(astronaut().permute(1, 2, 0).numpy()).save(photo)
    assert main(["detect", str(photo), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "1 face(s)" in printed and "box [181.1, 62.2, 267.7, 172.1]" in printed and "ms: pyramid" in printed
    assert image_module.open(output).size == (512, 512)
