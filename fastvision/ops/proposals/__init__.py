"""From a detector's raw maps to its boxes in one call; anchors; and the sampling of anchors in training."""

from fastvision.ops.proposals.anchors import AnchorGenerator, DefaultBoxGenerator
from fastvision.ops.proposals.balanced_sample import balanced_sample
from fastvision.ops.proposals.retinanet_detections import retinanet_detections
from fastvision.ops.proposals.rpn_proposals import rpn_proposals
from fastvision.ops.proposals.ssd_detections import ssd_detections
from fastvision.ops.proposals.yolo_detections import yolo_detections

__all__ = [
    "AnchorGenerator",
    "DefaultBoxGenerator",
    "balanced_sample",
    "retinanet_detections",
    "rpn_proposals",
    "ssd_detections",
    "yolo_detections",
]
