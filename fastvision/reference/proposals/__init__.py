"""From a detector's raw maps to its boxes, step by step in plain PyTorch."""

from fastvision.reference.proposals.pipeline import (
    retinanet_detections,
    rpn_proposals,
    ssd_detections,
)
from fastvision.reference.proposals.yolo_detections import yolo_detections

__all__ = ["retinanet_detections", "rpn_proposals", "ssd_detections", "yolo_detections"]
