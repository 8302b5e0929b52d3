"""What of torchvision fastvision takes over.

Modules such as ``RoIAlign`` and ``MultiScaleRoIAlign`` call the functions replaced here and so come along, also in
models that exist already; the classes stay torchvision's, and ``isinstance`` stays true.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastvision import ops
from fastvision._library import build_info
from fastvision.interop.patching import Replacement

_POOLING = ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")  # each in a module of its name

_OVERLAPS = ("box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou")
_LOSSES = (("giou_loss", "generalized_box_iou"), ("diou_loss", "distance_box_iou"), ("ciou_loss", "complete_box_iou"))


def replacements() -> list[Replacement]:
    """The table. Raises ImportError where torchvision is missing or broken."""
    boxes = _module("torchvision.ops.boxes")
    poolers = _module("torchvision.ops.poolers")
    coder = _module("torchvision.models.detection._utils").BoxCoder
    table: list[tuple[ModuleType | type, str, Callable[..., Any]]] = [
        (boxes, "nms", ops.nms),
        (boxes, "batched_nms", ops.batched_nms),
        *((boxes, name, getattr(ops, name)) for name in _OVERLAPS),
        *((_module(f"torchvision.ops.{file}"), f"{name}_loss", getattr(ops, f"{name}_loss")) for file, name in _LOSSES),
        *((_module(f"torchvision.ops.{name}"), name, getattr(ops, name)) for name in _POOLING),
        (poolers, "_multiscale_roi_align", _multiscale_roi_align),
        (coder, "encode_single", _encode_single),
        (coder, "decode_single", _decode_single),
    ]
    return [
        Replacement(owner, name, original, _routed(original, substitute))
        for owner, name, substitute in table
        for original in [getattr(owner, name)]
    ]


def _module(name: str) -> ModuleType:
    try:
        try:
            return importlib.import_module(name)
        except RuntimeError as error:
            if not re.search(r"operator torchvision::q?nms does not exist", str(error)):
                raise
            _declare_nms()
            return importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torchvision":
            raise ImportError("patch: torchvision is not installed; `pip install torchvision` installs it") from error
        # a torchvision built for another torch raises RuntimeError, AttributeError or OSError when imported
        raise ImportError(
            f"patch: torchvision cannot be imported ({type(error).__name__}: {error}); install the release of "
            f"torchvision that belongs to torch {torch.__version__}"
        ) from error


def _declare_nms() -> None:
    """Lets a torchvision be imported whose compiled library did not load.

    It then registers shape rules for two ops that do not exist, which raises. Declared, but without kernels, they are
    enough for the import; whatever is not sent to fastvision fails when it is called, as torchvision means it to.
    """
    for name in ("nms", "qnms"):
        _declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]


# declarations last as long as this object
_declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def _routed(original: Callable[..., Any], substitute: Callable[..., Any]) -> Callable[..., Any]:
    """``substitute`` for the calls fastvision can serve; ``original`` for the rest, and while a graph is traced for
    export, which should name torchvision's ops."""
    # plain PyTorch, which runs where nothing is loaded, knows CUDA; a build for the CPU leaves CUDA tensors alone
    devices = {"cpu", "cuda", "meta"} if build_info().get("cuda", True) else {"cpu", "meta"}

    @functools.wraps(original)
    def routed(*args: Any, **kwargs: Any) -> Any:
        tensors = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tracing or any(t.device.type not in devices or t.is_quantized for t in tensors):
            return original(*args, **kwargs)
        return substitute(*args, **kwargs)

    return routed


def _encode_single(coder: Any, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
    return ops.encode_boxes(reference_boxes, proposals, coder.weights)


def _decode_single(coder: Any, rel_codes: Tensor, boxes: Tensor) -> Tensor:
    return ops.decode_boxes(rel_codes, boxes, coder.weights, scale_clamp=coder.bbox_xform_clip)


def _multiscale_roi_align(
    x_filtered: list[Tensor],
    boxes: list[Tensor],
    output_size: list[int],
    sampling_ratio: int,
    scales: list[float],
    mapper: Any,
) -> Tensor:
    return ops.multiscale_roi_align(
        x_filtered,
        boxes,
        output_size,
        spatial_scales=scales,
        sampling_ratio=sampling_ratio,
        canonical_scale=mapper.s0,
        canonical_level=mapper.lvl0,
    )
