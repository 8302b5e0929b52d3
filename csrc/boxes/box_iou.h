// Pairwise IoU and its gradient.
#pragma once

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::box_iou {

// Share of the gradient that max(a, b) or min(a, b) passes to a: one half where they are equal, as torch does.
template <class T>
FV_HOST_DEVICE T share(bool chosen, bool equal) {
  return equal ? T(0.5) : chosen ? T(1) : T(0);
}

// Adds d IoU(a, b) / d a, times grad, to `sum`.
template <class T>
FV_HOST_DEVICE void add_gradient(const Box<T>& a, const Box<T>& b, T area_a, T area_b, T grad, Box<T>& sum) {
  const T width = minimum(a.x2, b.x2) - maximum(a.x1, b.x1), height = minimum(a.y2, b.y2) - maximum(a.y1, b.y1);
  const bool overlaps = width > 0 && height > 0;  // boxes that only touch pass no gradient to their intersection
  const T inter = overlaps ? width * height : T(0), area_union = area_a + area_b - inter;
  if (area_union == 0) return;
  const T to_inter = grad * (area_union + inter) / (area_union * area_union);
  const T to_area = -grad * inter / (area_union * area_union);
  const T to_width = overlaps ? to_inter * height : T(0), to_height = overlaps ? to_inter * width : T(0);
  sum.x1 -= to_width * share<T>(a.x1 > b.x1, a.x1 == b.x1) + to_area * (a.y2 - a.y1);
  sum.x2 += to_width * share<T>(a.x2 < b.x2, a.x2 == b.x2) + to_area * (a.y2 - a.y1);
  sum.y1 -= to_height * share<T>(a.y1 > b.y1, a.y1 == b.y1) + to_area * (a.x2 - a.x1);
  sum.y2 += to_height * share<T>(a.y2 < b.y2, a.y2 == b.y2) + to_area * (a.x2 - a.x1);
}

inline void validate(const char* op, const Tensor& boxes1, const Tensor& boxes2) {
  check_matrix(op, "boxes1", boxes1, 4);
  check_matrix(op, "boxes2", boxes2, 4);
  check_real(op, "boxes1", boxes1);
  check_real(op, "boxes2", boxes2);
  check_same_device(op, "boxes2", boxes2, "boxes1", boxes1);
}

inline void validate_grad(const char* op, const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  validate(op, boxes1, boxes2);
  FV_CHECK(grad.dim() == 2 && grad.size(0) == boxes1.size(0) && grad.size(1) == boxes2.size(0), op,
           "expected grad of shape [", boxes1.size(0), ", ", boxes2.size(0), "], got ", shape_of(grad));
}

}  // namespace fastvision::box_iou
