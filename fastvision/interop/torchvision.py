"""What of torchvision fastvision takes over.

Modules such as ``RoIAlign`` and ``MultiScaleRoIAlign`` call the functions replaced here and so come along, also in
models that exist already; the classes stay torchvision's, and ``isinstance`` stays true.
"""

from __future__ import annotations

import functools
import importlib
import math
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

_OVERLAPS = ("generalized_box_iou", "distance_box_iou", "complete_box_iou")
_LOSSES = (("giou_loss", "generalized_box_iou"), ("diou_loss", "distance_box_iou"), ("ciou_loss", "complete_box_iou"))


def replacements() -> list[Replacement]:
    """The table. Raises ImportError where torchvision is missing or broken."""
    boxes = _module("torchvision.ops.boxes")
    poolers = _module("torchvision.ops.poolers")
    coder = _module("torchvision.models.detection._utils").BoxCoder
    heads = _module("torchvision.models.detection.roi_heads")
    network = _module("torchvision.models.detection.rpn").RegionProposalNetwork
    table: list[tuple[ModuleType | type, str, Callable[..., Any]]] = [
        (boxes, "nms", ops.nms),
        (boxes, "masks_to_boxes", ops.masks_to_boxes),
        (boxes, "batched_nms", ops.batched_nms),
        (boxes, "box_iou", _box_iou(boxes.box_iou)),
        *((boxes, name, getattr(ops, name)) for name in _OVERLAPS),
        *((_module(f"torchvision.ops.{file}"), f"{name}_loss", getattr(ops, f"{name}_loss")) for file, name in _LOSSES),
        *((_module(f"torchvision.ops.{name}"), name, getattr(ops, name)) for name in _POOLING),
        (poolers, "_multiscale_roi_align", _multiscale_roi_align),
        (coder, "encode_single", _encode_single),
        (coder, "decode_single", _decode_single),
        (heads, "paste_masks_in_image", _paste_masks_in_image(heads.paste_masks_in_image)),
        (heads, "heatmaps_to_keypoints", _heatmaps_to_keypoints(heads.heatmaps_to_keypoints)),
        (network, "forward", _propose(network.forward)),
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


def _box_iou(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def overlap(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
        ours = fmt in ("xyxy", "xywh", "cxcywh", "cxcywhr")
        return ops.box_iou(boxes1, boxes2, fmt) if ours else original(boxes1, boxes2, fmt)

    return overlap


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


def _paste_masks_in_image(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def paste(masks: Tensor, boxes: Tensor, img_shape: tuple[int, int], padding: int = 1) -> Tensor:
        if padding != 1 or _has_gradient(masks):
            return original(masks, boxes, img_shape, padding)
        return ops.paste_masks(masks, boxes, img_shape, threshold=None)[:, None]

    return paste


def _heatmaps_to_keypoints(original: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    def find(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        if _has_gradient(maps):
            return original(maps, rois)
        keypoints, scores = ops.heatmaps_to_keypoints(maps, rois)
        return keypoints.float(), scores.float()  # as theirs, whatever the input

    return find


def _has_gradient(tensor: Tensor) -> bool:
    return torch.is_grad_enabled() and tensor.requires_grad


def _unchanged(module: Any, own: type) -> bool:
    """Whether it is torchvision's class with no method of its own, and nothing listens to its calls."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return type(module) is own and not hooks and not vars(own).keys() & vars(module).keys()


def _propose(original: Callable[..., Any]) -> Callable[..., Any]:
    """``RegionProposalNetwork.forward`` in inference: from the head's maps to boxes without the anchors between."""
    own_generator = _module("torchvision.models.detection.anchor_utils").AnchorGenerator
    own_network = _module("torchvision.models.detection.rpn").RegionProposalNetwork
    own_filter, own_anchors = own_network.filter_proposals, own_generator.forward

    def forward(network: Any, images: Any, features: dict[str, Tensor], targets: Any = None) -> Any:
        coder, generator, maps = network.box_coder, network.anchor_generator, list(features.values())
        common = (
            not network.training
            and _unchanged(network, own_network)
            and _unchanged(generator, own_generator)
            and own_network.filter_proposals is own_filter
            and own_generator.forward is own_anchors
            and len(generator.cell_anchors) == len(maps)
            and tuple(coder.weights) == (1.0, 1.0, 1.0, 1.0)
            and coder.bbox_xform_clip == math.log(1000.0 / 16)
            and all(m.dtype in (torch.float32, torch.float64) for m in maps)
        )
        if not common:
            return original(network, images, features, targets)
        objectness, deltas = network.head(maps)
        generator.set_cell_anchors(maps[0].dtype, maps[0].device)
        height, width = images.tensors.shape[-2:]
        boxes = ops.rpn_proposals(
            [m.detach() for m in objectness],
            [m.detach() for m in deltas],
            generator.cell_anchors,
            [(height // m.shape[-2], width // m.shape[-1]) for m in maps],
            images.image_sizes,
            pre_nms_top_n=network.pre_nms_top_n(),
            post_nms_top_n=network.post_nms_top_n(),
            nms_threshold=network.nms_thresh,
            score_threshold=network.score_thresh,
            min_size=network.min_size,
        )[0]
        return boxes, {}

    return forward
