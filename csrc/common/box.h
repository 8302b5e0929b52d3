// Axis-aligned boxes (x1, y1, x2, y2): area, intersection over union, and the R-CNN parametrisation.
//
// Decisions such as IoU > t must be the same on every device, so each product is rounded on its own (mul_rn).
#pragma once

#include "common/scalar.h"

namespace fastvision {

template <class T>
struct Box {
  T x1, y1, x2, y2;
};

template <class T>
FV_HOST_DEVICE T box_area(const Box<T>& box) {
  return mul_rn(box.x2 - box.x1, box.y2 - box.y1);
}

// Zero where the boxes do not overlap, inverted boxes (x2 < x1) included.
template <class T>
FV_HOST_DEVICE T intersection(const Box<T>& a, const Box<T>& b) {
  const T width = maximum(minimum(a.x2, b.x2) - maximum(a.x1, b.x1), T(0));
  const T height = maximum(minimum(a.y2, b.y2) - maximum(a.y1, b.y1), T(0));
  return mul_rn(width, height);
}

// 0 for two empty boxes, never 0/0; NaN only where a coordinate is NaN or an area overflows.
template <class T>
FV_HOST_DEVICE T iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b), area_union = area_a + area_b - inter;
  return inter == 0 && area_union == 0 ? T(0) : div_rn(inter, area_union);
}

}  // namespace fastvision
