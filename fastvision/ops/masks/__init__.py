"""Masks and keypoints on their way out of a detector."""

from fastvision.ops.masks.heatmaps_to_keypoints import heatmaps_to_keypoints
from fastvision.ops.masks.mask_iou import mask_iou
from fastvision.ops.masks.mask_logits import mask_logits
from fastvision.ops.masks.masks_to_boxes import masks_to_boxes
from fastvision.ops.masks.paste_masks import paste_masks
from fastvision.ops.masks.paste_masks_rle import paste_masks_rle

__all__ = ["heatmaps_to_keypoints", "mask_iou", "mask_logits", "masks_to_boxes", "paste_masks", "paste_masks_rle"]
