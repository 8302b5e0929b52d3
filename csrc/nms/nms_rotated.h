// Checks of nms_rotated.
#pragma once

#include "common/rotated_box.h"
#include "nms/nms.h"

namespace fastvision::nms_rotated {

constexpr const char* kOp = "nms_rotated";

// boxes [N, 5], scores [N], idxs [N] of integers where given.
inline void validate(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                     double iou_threshold) {
  check_matrix(kOp, "boxes", boxes, 5);
  nms::check_scores(kOp, boxes, scores, idxs);
  nms::check_threshold(kOp, iou_threshold);
}

}  // namespace fastvision::nms_rotated
