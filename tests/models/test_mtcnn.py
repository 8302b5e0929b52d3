"""MTCNN: its parts on synthetic data, the whole on a photograph against the class whose weights it uses."""

from __future__ import annotations

import pytest
import torch
from data_requirements import astronaut, require_module, require_weights
from torch.nn import functional as F

from fastvision.models import MTCNN, mtcnn


@pytest.fixture(scope="module")
def model() -> MTCNN:
    require_weights("mtcnn")
    return MTCNN()


def random_photo(height: int = 60, width: int = 90) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("side", [24, 48])
def test_crops_equal_area_interpolation_of_each(side: int) -> None:
    pixels = random_photo().float()
    boxes = torch.tensor(
        [[1.0, 1, 90, 60], [-20.5, -3, 30.9, 41], [80, 50, 120, 90], [10, 10, 11, 11], [5.9, 7.2, 12.1, 55.5]]
    )
    table = mtcnn._summed_area_table(pixels)
    spans = mtcnn._spans(boxes, table)
    crops = mtcnn._crop_area(table, spans, side)
    for crop, (first, end) in zip(crops, spans.tolist(), strict=True):
        window = pixels[None, :, first[1] : end[1], first[0] : end[0]]
        torch.testing.assert_close(crop[None], F.interpolate(window, size=(side, side), mode="area"))


def test_spans_are_clipped_to_the_image() -> None:
    table = mtcnn._summed_area_table(random_photo(60, 90).float())
    spans = mtcnn._spans(torch.tensor([[-5.0, 0.5, 200, 10.9], [95, 3, 120, 9]]), table)
    assert spans.tolist() == [[[0, 0], [90, 10]], [[94, 2], [90, 9]]]  # the second is empty: its end comes first


def test_squares_keep_the_centre() -> None:
    boxes = mtcnn._squared(torch.tensor([[0.0, 0, 10, 4], [3, 1, 5, 9]]))
    assert boxes.tolist() == [[0, -3, 10, 7], [0, 1, 8, 9]]


@pytest.mark.parametrize("shape", [(1, 1), (5, 400), (20, 20), (37, 90)])
@pytest.mark.parametrize("value", [0, 255])
def test_no_face(model: MTCNN, shape: tuple[int, int], value: int) -> None:
    faces = model(torch.full((3, *shape), value, dtype=torch.uint8))
    assert {name: list(part.shape) for name, part in faces.items()} == {
        "boxes": [0, 4],
        "scores": [0],
        "landmarks": [0, 5, 2],
    }


def test_random_weights_need_no_download() -> None:
    torch.manual_seed(0)
    model = MTCNN(weights=None, thresholds=(0.0, 0.0, 0.0), min_size=30)
    timings: dict[str, float] = {}
    faces = model(random_photo(), timings=timings)
    count = len(faces["scores"])
    assert count > 0 and faces["boxes"].shape == (count, 4) and faces["landmarks"].shape == (count, 5, 2)
    assert (faces["scores"].diff() <= 0).all()
    assert set(timings) == {"pyramid", "pnet", "grid", "nms", "crop", "rnet", "onet"}
    assert all(seconds >= 0 for seconds in timings.values())


def test_chunks_of_crops_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MTCNN(weights=None, thresholds=(0.0, 0.0, 0.0), min_size=30)
    whole = model(random_photo())
    monkeypatch.setattr(mtcnn, "_CROPS_AT_ONCE", 7)
    for name, part in model(random_photo()).items():
        torch.testing.assert_close(part, whole[name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "image",
    [torch.zeros(1, 20, 20), torch.zeros(20, 20, 3), torch.zeros(3, 0, 20), torch.zeros(3, 20, 20, dtype=torch.int32)],
)
def test_rejects_what_is_no_image(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="MTCNN: expected"):
        MTCNN(weights=None)(image)


@pytest.mark.parametrize("setting", [{"thresholds": (0.5, 0.5)}, {"min_size": 0}, {"factor": 1.0}, {"factor": 0.0}])
def test_rejects_settings(setting: dict) -> None:
    with pytest.raises(ValueError, match="MTCNN: expected"):
        MTCNN(weights=None, **setting)


def test_finds_the_astronaut(model: MTCNN) -> None:
    image = astronaut()
    faces = model(image)
    assert (faces["boxes"] - torch.tensor([[181.0, 62.0, 268.0, 172.0]])).abs().max() < 1
    assert faces["scores"][0] > 0.99
    left_eye, right_eye, nose, left_mouth, right_mouth = faces["landmarks"][0]
    assert left_eye[0] < nose[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert left_eye[1] < nose[1] < left_mouth[1]
    torch.testing.assert_close(model(image.double() / 255)["boxes"], faces["boxes"], rtol=0, atol=1e-2)
    wide = torch.cat([image, image.flip(2)], dim=2)
    assert len(model(wide)["boxes"]) == 2


@pytest.mark.parametrize("settings", [{}, {"thresholds": (0.5, 0.4, 0.3), "min_size": 40, "factor": 0.6}])
def test_equals_facenet_pytorch(settings: dict) -> None:
    require_weights("mtcnn")
    facenet_pytorch = require_module("facenet_pytorch")
    image = astronaut()
    names = {"min_size": "min_face_size"}
    theirs = facenet_pytorch.MTCNN(
        keep_all=True, select_largest=False, **{names.get(k, k): v for k, v in settings.items()}
    )
    boxes, scores, landmarks = theirs.detect(image.permute(1, 2, 0).numpy(), landmarks=True)
    faces = MTCNN(**settings)(image)
    torch.testing.assert_close(faces["boxes"], torch.tensor(boxes.astype("float32")), rtol=0, atol=1e-2)
    torch.testing.assert_close(faces["scores"], torch.tensor(scores.astype("float32")), rtol=0, atol=1e-4)
    torch.testing.assert_close(faces["landmarks"], torch.tensor(landmarks.astype("float32")), rtol=0, atol=1e-2)
