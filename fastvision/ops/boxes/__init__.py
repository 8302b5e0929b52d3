"""Boxes: formats, overlap, and the R-CNN parametrisation; one file per op."""

from fastvision.ops.boxes.box_coder import decode_boxes, encode_boxes
from fastvision.ops.boxes.box_iou import (
    box_iou,
    complete_box_iou,
    complete_box_iou_loss,
    distance_box_iou,
    distance_box_iou_loss,
    generalized_box_iou,
    generalized_box_iou_loss,
)
from fastvision.ops.boxes.box_iou_rotated import box_iou_rotated
from fastvision.ops.boxes.formats import box_area, box_convert, clip_boxes_to_image, remove_small_boxes
from fastvision.ops.boxes.match_boxes import match_boxes

__all__ = [
    "box_area",
    "box_convert",
    "box_iou",
    "box_iou_rotated",
    "clip_boxes_to_image",
    "complete_box_iou",
    "complete_box_iou_loss",
    "decode_boxes",
    "distance_box_iou",
    "distance_box_iou_loss",
    "encode_boxes",
    "generalized_box_iou",
    "generalized_box_iou_loss",
    "match_boxes",
    "remove_small_boxes",
]
