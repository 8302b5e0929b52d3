"""``fastvision detect``: faces in photos, by :class:`fastvision.models.MTCNN`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastvision.cli.errors import CommandError
from fastvision.models import MTCNN
from fastvision.weights import WeightsError

if TYPE_CHECKING:
    from PIL import Image

HELP = "find faces in a photo, or in every photo of a folder, and draw them"
_SUFFIX = "_faces"
_BOX, _POINT = "#ffd400", "#ff2d55"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The photo and where to write."""
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="an image, or a folder of images")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="F",
        help=f"file to write (a folder, if PHOTO is one); default: <name>{_SUFFIX}.png in the current folder",
    )


def run(arguments: argparse.Namespace) -> int:
    """0, or 2 if a photo of the folder could not be read."""
    pillow()
    try:
        jobs = _jobs(arguments.photo, arguments.output)
    except OSError as error:
        raise CommandError(f"{arguments.photo} cannot be read ({error})") from error
    model, code = None, 0
    for photo, output in jobs:
        try:
            image = read(photo)
        except CommandError as error:
            if len(jobs) == 1:
                raise
            print(f"fastvision detect: {error}", file=sys.stderr)
            code = 2
            continue
        model = model or _model()
        timings: dict[str, float] = {}
        faces = model(to_tensor(image), timings=timings)
        write(draw(image, faces), output)
        print(f"{photo}: {describe(faces, timings)}\n  written to {output}")
    return code


def pillow() -> Any:
    """The imported ``PIL`` with the modules used here; an optional dependency."""
    try:
        import PIL
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageOps
    except ImportError as error:
        raise CommandError("pillow is not installed; `pip install 'fastvision[demo]'` installs it") from error
    return PIL


def read(photo: Path) -> Image.Image:
    """The photo in RGB, upright."""
    PIL = pillow()
    try:
        with PIL.Image.open(photo) as image:
            upright: Image.Image = PIL.ImageOps.exif_transpose(image).convert("RGB")
            return upright
    except PIL.UnidentifiedImageError as error:
        raise CommandError(f"{photo} is not an image") from error
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        # pillow raises all of these for damaged files
        raise CommandError(f"{photo} cannot be read ({error})") from error


def to_tensor(image: Image.Image) -> Tensor:
    """``[3, H, W]`` uint8."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def draw(image: Image.Image, faces: dict[str, Tensor]) -> Image.Image:
    """A copy of the image with boxes, scores and landmarks."""
    canvas = image.copy()
    pen = pillow().ImageDraw.Draw(canvas)
    width = max(1, max(image.size) // 250)
    for box, score, landmarks in zip(faces["boxes"], faces["scores"], faces["landmarks"], strict=True):
        x1, y1, x2, y2 = box.tolist()
        pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=_BOX, width=width)
        pen.text((x1 + 2 * width, y1 + 2 * width), f"{float(score):.3f}", fill=_BOX, font_size=8 + 2 * width)
        for x, y in landmarks.tolist():
            pen.ellipse((x - width, y - width, x + width, y + width), fill=_POINT)
    return canvas


def write(image: Image.Image, output: Path) -> None:
    """Saves the picture in the format that the name asks for."""
    try:
        image.save(output)
    except (OSError, ValueError) as error:
        raise CommandError(f"{output} cannot be written ({error})") from error


def describe(faces: dict[str, Tensor], timings: dict[str, float]) -> str:
    """Boxes, scores and the time of each stage, for people."""
    lines = [f"{len(faces['boxes'])} face(s)"]
    for box, score in zip(faces["boxes"].tolist(), faces["scores"].tolist(), strict=True):
        lines.append("  box [" + ", ".join(f"{side:.1f}" for side in box) + f"]  score {score:.4f}")
    stages = ", ".join(f"{stage} {seconds * 1e3:.1f}" for stage, seconds in timings.items())
    lines.append(f"  ms: {stages}; total {sum(timings.values()) * 1e3:.1f}")
    return "\n".join(lines)


def _model() -> MTCNN:
    try:
        return MTCNN()
    except WeightsError as error:
        raise CommandError(str(error)) from error


def _jobs(photo: Path, output: Path | None) -> list[tuple[Path, Path]]:
    """Which photo goes where."""
    if not photo.exists():
        raise CommandError(f"{photo} does not exist")
    if not photo.is_dir():
        target = output or Path(f"{photo.stem}{_SUFFIX}.png")
        if target.is_dir():
            raise CommandError(f"{target} cannot be written (it is a folder)")
        if target.resolve() == photo.resolve():
            raise CommandError(f"{target} is the photo itself; choose another --output")
        return [(photo, target)]
    photos = _photos(photo)
    if not photos:
        raise CommandError(f"{photo} holds no images")
    folder = output or Path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{folder} cannot be written ({error})") from error
    # a.jpg and a.png must not overwrite one another
    stems = [p.stem for p in photos]
    names = [p.stem if stems.count(p.stem) == 1 else p.name.replace(".", "_") for p in photos]
    return [(p, folder / f"{name}{_SUFFIX}.png") for p, name in zip(photos, names, strict=True)]


def _photos(folder: Path) -> list[Path]:
    """Images by their names' endings, less the pictures this command wrote."""
    endings = set(pillow().Image.registered_extensions())
    files = [p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in endings]
    return sorted(p for p in files if not p.stem.endswith(_SUFFIX))
