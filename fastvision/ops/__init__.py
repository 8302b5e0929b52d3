"""Vision ops with torchvision's names and signatures. Extra abilities are keyword-only.

Boxes are ``(x1, y1, x2, y2)`` in pixels. Every op runs on the CPU and on CUDA, in float32, float64, float16 and
bfloat16 (half types are stored as half; coordinates and sums are float32).
"""

from fastvision.ops.boxes import (
    box_area,
    box_convert,
    box_iou,
    clip_boxes_to_image,
    complete_box_iou,
    complete_box_iou_loss,
    decode_boxes,
    distance_box_iou,
    distance_box_iou_loss,
    encode_boxes,
    generalized_box_iou,
    generalized_box_iou_loss,
    match_boxes,
    remove_small_boxes,
)
from fastvision.ops.nms import batched_nms, nms
from fastvision.ops.roi import (
    MultiScaleRoIAlign,
    PSRoIAlign,
    PSRoIPool,
    RoIAlign,
    RoIAlignRotated,
    RoIPool,
    SpatialPyramidPool,
    crop_and_resize,
    multiscale_roi_align,
    ps_roi_align,
    ps_roi_pool,
    roi_align,
    roi_align_rotated,
    roi_pool,
    spatial_pyramid_pool,
)

__all__ = [
    "MultiScaleRoIAlign",
    "PSRoIAlign",
    "PSRoIPool",
    "RoIAlign",
    "RoIAlignRotated",
    "RoIPool",
    "SpatialPyramidPool",
    "batched_nms",
    "box_area",
    "box_convert",
    "box_iou",
    "clip_boxes_to_image",
    "complete_box_iou",
    "complete_box_iou_loss",
    "crop_and_resize",
    "decode_boxes",
    "distance_box_iou",
    "distance_box_iou_loss",
    "encode_boxes",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "ps_roi_align",
    "ps_roi_pool",
    "remove_small_boxes",
    "roi_align",
    "roi_align_rotated",
    "roi_pool",
    "spatial_pyramid_pool",
]
