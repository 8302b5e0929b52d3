// Intersection over union and its relatives, of pairs of boxes, and their gradients.
//
//   iou          I / (U + e0)
//   generalized  ... - (C - U) / (C + e)                  Rezatofighi et al. 2019; C: area of the enclosing box
//   distance     ... - d^2 / (c^2 + e)                    Zheng et al. 2020, eq. 7; c: its diagonal
//   complete     ... - d^2 / (c^2 + e) - alpha v          eq. 8-11; v: squared difference of the aspect angles
//
// A penalty over nothing (two points in one place, inverted boxes) is none: never 0/0.
#pragma once

#include <cmath>
#include <string>

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::box_iou {

enum class Kind { kIou, kGeneralized, kDistance, kComplete };

// What is added to denominators: that of the union, and that of the penalty.
template <class T>
struct Slack {
  T in_union, in_penalty;
};

// A box and what is computed of it once. `aspect` = atan(width / height), only where the kind needs it.
template <class T>
struct Measured {
  Box<T> box;
  T area, aspect;
};

template <Kind kind, class T>
FV_HOST_DEVICE Measured<T> measure(const Box<T>& box) {
  const T width = box.x2 - box.x1, height = box.y2 - box.y1;
  T aspect = 0;
  if constexpr (kind == Kind::kComplete) aspect = width == 0 && height == 0 ? T(0) : std::atan(width / height);
  return {box, box_area(box), aspect};
}

constexpr double kAspectScale = 0.4052847345693511;  // 4 / pi^2

template <Kind kind, class T>
FV_HOST_DEVICE T overlap(const Measured<T>& m, const Measured<T>& o, const Slack<T>& slack) {
  const Box<T>&a = m.box, &b = o.box;
  const T inter = intersection(a, b), area_union = m.area + o.area - inter;
  const T iou = inter == 0 && area_union == 0 ? T(0) : div_rn(inter, area_union + slack.in_union);
  if constexpr (kind == Kind::kIou) return iou;
  const T width = maximum(maximum(a.x2, b.x2) - minimum(a.x1, b.x1), T(0));
  const T height = maximum(maximum(a.y2, b.y2) - minimum(a.y1, b.y1), T(0));
  if constexpr (kind == Kind::kGeneralized) {
    const T hull = width * height;
    return iou - (hull == 0 ? T(0) : (hull - area_union) / (hull + slack.in_penalty));
  } else {
    const T dx = (a.x1 + a.x2) / 2 - (b.x1 + b.x2) / 2, dy = (a.y1 + a.y2) / 2 - (b.y1 + b.y2) / 2;
    const T distance = dx * dx + dy * dy;
    const T diagonal = width * width + height * height;
    const T value = iou - (diagonal == 0 ? T(0) : distance / (diagonal + slack.in_penalty));
    if constexpr (kind == Kind::kDistance) return value;
    const T v = T(kAspectScale) * (m.aspect - o.aspect) * (m.aspect - o.aspect);
    return value - (v == 0 ? T(0) : v * v / (1 - iou + v + slack.in_penalty));
  }
}

// Share of the gradient that max(a, b) or min(a, b) passes to a: one half where they are equal, as torch does.
template <class T>
FV_HOST_DEVICE T share(bool chosen, bool equal) {
  return equal ? T(0.5) : chosen ? T(1) : T(0);
}

// The gradient of a sum over pairs with respect to one box, kept in the quantities it is made of.
template <class T>
struct Gradient {
  T x1 = 0, y1 = 0, x2 = 0, y2 = 0;  // of the corners themselves
  T area = 0, aspect = 0;            // of what `measure` computes

  FV_HOST_DEVICE void add(const Gradient& other) {
    x1 += other.x1, y1 += other.y1, x2 += other.x2, y2 += other.y2, area += other.area, aspect += other.aspect;
  }

  // With respect to the corners of `box` alone. The width grows with x2 and shrinks with x1.
  FV_HOST_DEVICE Box<T> corners(const Box<T>& box) const {
    const T width = box.x2 - box.x1, height = box.y2 - box.y1, square = width * width + height * height;
    const T turn = square > 0 ? aspect / square : T(0);
    const T to_width = area * height + turn * height, to_height = area * width - turn * width;
    return {x1 - to_width, y1 - to_height, x2 + to_width, y2 + to_height};
  }
};

// grad times the gradient of overlap(m, o) with respect to m; alpha counts as a constant. No branches: it vectorises.
template <Kind kind, class T>
FV_HOST_DEVICE Gradient<T> gradient(const Measured<T>& m, const Measured<T>& o, const Slack<T>& slack, T grad) {
  const Box<T>&a = m.box, &b = o.box;
  const T width = minimum(a.x2, b.x2) - maximum(a.x1, b.x1), height = minimum(a.y2, b.y2) - maximum(a.y1, b.y1);
  const bool overlaps = (width > 0) & (height > 0);  // boxes that only touch pass nothing to their intersection
  const T inter = overlaps ? width * height : T(0), area_union = m.area + o.area - inter;
  const T divisor = area_union + slack.in_union;
  const T scale = divisor == 0 ? T(0) : grad / (divisor == 0 ? T(1) : divisor * divisor);
  T to_inter = scale * (divisor + inter), to_area = -scale * inter;  // the union is area + area - inter
  Gradient<T> sum;
  const T right = share<T>(a.x2 > b.x2, a.x2 == b.x2), left = share<T>(a.x1 < b.x1, a.x1 == b.x1);
  const T bottom = share<T>(a.y2 > b.y2, a.y2 == b.y2), top = share<T>(a.y1 < b.y1, a.y1 == b.y1);
  if constexpr (kind != Kind::kIou) {
    const T hull_width = maximum(maximum(a.x2, b.x2) - minimum(a.x1, b.x1), T(0));
    const T hull_height = maximum(maximum(a.y2, b.y2) - minimum(a.y1, b.y1), T(0));
    T to_width, to_height;
    if constexpr (kind == Kind::kGeneralized) {
      const T hull = hull_width * hull_height, whole = hull + slack.in_penalty;
      const T part = hull == 0 ? T(0) : grad / (hull == 0 ? T(1) : whole);
      const T to_hull = -part * (area_union + slack.in_penalty) / (hull == 0 ? T(1) : whole);
      to_area += part, to_inter -= part;
      to_width = to_hull * hull_height, to_height = to_hull * hull_width;
    } else {
      const T dx = (a.x1 + a.x2) / 2 - (b.x1 + b.x2) / 2, dy = (a.y1 + a.y2) / 2 - (b.y1 + b.y2) / 2;
      const T distance = dx * dx + dy * dy;
      const T diagonal = hull_width * hull_width + hull_height * hull_height, whole = diagonal + slack.in_penalty;
      const T part = diagonal == 0 ? T(0) : grad / (diagonal == 0 ? T(1) : whole);
      const T to_square = part * distance / (diagonal == 0 ? T(1) : whole);
      to_width = 2 * to_square * hull_width, to_height = 2 * to_square * hull_height;
      sum.x1 = sum.x2 = -part * dx, sum.y1 = sum.y2 = -part * dy;
    }
    sum.x2 += to_width * right, sum.x1 -= to_width * left;
    sum.y2 += to_height * bottom, sum.y1 -= to_height * top;
  }
  if constexpr (kind == Kind::kComplete) {
    const T turn = m.aspect - o.aspect, v = T(kAspectScale) * turn * turn;
    const T iou = divisor == 0 ? T(0) : inter / (divisor == 0 ? T(1) : divisor);
    const T whole = 1 - iou + v + slack.in_penalty;
    const T alpha = whole == 0 ? T(0) : v / (whole == 0 ? T(1) : whole);
    sum.aspect = -grad * alpha * T(2 * kAspectScale) * turn;
  }
  const T to_width = overlaps ? to_inter * height : T(0), to_height = overlaps ? to_inter * width : T(0);
  sum.x2 += to_width * (1 - right), sum.x1 -= to_width * (1 - left);
  sum.y2 += to_height * (1 - bottom), sum.y1 -= to_height * (1 - top);
  sum.area = to_area;
  return sum;
}

// Calls f with a std::integral_constant of the kind.
template <class F>
auto dispatch_kind(const char* op, const std::string& kind, F f) {
  if (kind == "iou") return f(std::integral_constant<Kind, Kind::kIou>{});
  if (kind == "generalized") return f(std::integral_constant<Kind, Kind::kGeneralized>{});
  if (kind == "distance") return f(std::integral_constant<Kind, Kind::kDistance>{});
  if (kind == "complete") return f(std::integral_constant<Kind, Kind::kComplete>{});
  fail<std::invalid_argument>(op, "expected kind \"iou\", \"generalized\", \"distance\" or \"complete\", got \"", kind,
                              '"');
}

inline void validate(const char* op, const Tensor& boxes1, const Tensor& boxes2, bool elementwise) {
  check_matrix(op, "boxes1", boxes1, 4);
  check_matrix(op, "boxes2", boxes2, 4);
  FV_CHECK(!elementwise || boxes1.size(0) == boxes2.size(0), op, "expected as many boxes1 as boxes2, got ",
           shape_of(boxes1), " and ", shape_of(boxes2));
  check_real(op, "boxes1", boxes1);
  check_real(op, "boxes2", boxes2);
  check_same_device(op, "boxes2", boxes2, "boxes1", boxes1);
}

inline void validate_grad(const char* op, const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                          bool elementwise) {
  validate(op, boxes1, boxes2, elementwise);
  if (elementwise) {
    FV_CHECK(grad.dim() == 1 && grad.size(0) == boxes1.size(0), op, "expected grad of shape [", boxes1.size(0),
             "], got ", shape_of(grad));
  } else {
    FV_CHECK(grad.dim() == 2 && grad.size(0) == boxes1.size(0) && grad.size(1) == boxes2.size(0), op,
             "expected grad of shape [", boxes1.size(0), ", ", boxes2.size(0), "], got ", shape_of(grad));
  }
}

}  // namespace fastvision::box_iou
