// Checks of box_iou_rotated.
#pragma once

#include "common/checks.h"
#include "common/rotated_box.h"

namespace fastvision::box_iou_rotated {

constexpr const char* kOp = "box_iou_rotated";

// boxes1 [N, 5], boxes2 [M, 5]
inline void validate(const Tensor& boxes1, const Tensor& boxes2) {
  check_matrix(kOp, "boxes1", boxes1, 5);
  check_matrix(kOp, "boxes2", boxes2, 5);
  check_real(kOp, "boxes1", boxes1);
  check_real(kOp, "boxes2", boxes2);
  check_same_device(kOp, "boxes2", boxes2, "boxes1", boxes1);
}

}  // namespace fastvision::box_iou_rotated
