// Rotated boxes (cx, cy, width, height, degrees) and the overlap of two.
//
// Everything is in float64, in the frame of the first box, where it is the rectangle [-w, w] x [-h, h] (half sides) and
// the second a polygon. By Green's theorem the area they share is the sum over the polygon's edges of
//     integral of (clamp(y, -h, h) + h) dx,  x limited to [-w, w],
// which is continuous in all its inputs: no vertex is inside or outside, no two lines are parallel, so that identical
// and thin boxes are no special cases. Of boxes that do not meet it is the noise of rounding, so whether they do is
// decided on its own.
#pragma once

#include <cmath>

#include "common/angle.h"
#include "common/scalar.h"

namespace fastvision {

// `area` is 0 for a side that is not positive, NaN where a number is not finite.
struct RotatedBox {
  double x, y, half_width, half_height, cosine, sine, area, radius;
};

// row [5]; angles counter-clockwise as seen, the y axis pointing down, or clockwise
template <class T>
FV_HOST_DEVICE RotatedBox rotated_box(const T* row, bool clockwise) {
  const double width = double(row[2]), height = double(row[3]);
  const double angle = clockwise ? -double(row[4]) : double(row[4]);
  double sum = 0;  // NaN or infinite if a number is
  for (int c = 0; c < 5; ++c) sum += std::fabs(double(row[c]));
  const bool finite = std::isfinite(sum), solid = width > 0 && height > 0;
  RotatedBox box;
  box.x = double(row[0]), box.y = double(row[1]), box.half_width = width / 2, box.half_height = height / 2;
  box.cosine = finite ? cosine_of(angle) : 1, box.sine = finite ? sine_of(angle) : 0;
  box.area = !finite ? std::nan("") : solid ? width * height : 0;
  box.radius = std::sqrt(box.half_width * box.half_width + box.half_height * box.half_height);
  return box;
}

// Whether circles (x, y, radius) are apart; so are the boxes within them. Never where a number is NaN.
FV_HOST_DEVICE bool apart(double ax, double ay, double a_radius, double bx, double by, double b_radius) {
  const double dx = bx - ax, dy = by - ay, reach = a_radius + b_radius;
  return dx * dx + dy * dy > reach * reach;
}

// Of two boxes that are apart: 0, or NaN if either is not finite.
FV_HOST_DEVICE double rotated_iou_apart(double a_area, double b_area) { return (a_area + b_area) * 0; }

// Whether a side of either has all of the other beyond it or on it (the separating axis theorem). Rounded alike
// whichever box comes first, and compared with what rounding may do to boxes of this size.
FV_HOST_DEVICE bool separated(const RotatedBox& a, const RotatedBox& b) {
  const double dx = b.x - a.x, dy = b.y - a.y;
  const double cosine = std::fabs(mul_rn(a.cosine, b.cosine) + mul_rn(a.sine, b.sine));
  const double sine = std::fabs(mul_rn(a.cosine, b.sine) - mul_rn(a.sine, b.cosine));
  const auto depth = [&](const RotatedBox& one, const RotatedBox& other) {  // the lesser along the sides of `one`
    const double x = std::fabs(mul_rn(dx, one.cosine) - mul_rn(dy, one.sine));
    const double y = std::fabs(mul_rn(dx, one.sine) + mul_rn(dy, one.cosine));
    const double reach_x = mul_rn(other.half_width, cosine) + mul_rn(other.half_height, sine);
    const double reach_y = mul_rn(other.half_width, sine) + mul_rn(other.half_height, cosine);
    return minimum(one.half_width + reach_x - x, one.half_height + reach_y - y);
  };
  return minimum(depth(a, b), depth(b, a)) <= 16 * kEpsilon<double> * (a.radius + b.radius);
}

FV_HOST_DEVICE double clamp_to(double value, double limit) { return maximum(-limit, minimum(value, limit)); }

// Mean of clamp(y, -h, h) + h while y goes evenly from ya to yb: three straight pieces between the crossings of -h, h.
FV_HOST_DEVICE double mean_above(double ya, double yb, double h) {
  const double dy = yb - ya, part = 1 / (dy == 0 ? 1 : dy);
  const double low = (-h - ya) * part, high = (h - ya) * part;
  const double first = maximum(0.0, minimum(minimum(low, high), 1.0));
  const double last = maximum(0.0, minimum(maximum(low, high), 1.0));
  const double a = clamp_to(ya, h), b = clamp_to(ya + first * dy, h), c = clamp_to(ya + last * dy, h),
               d = clamp_to(yb, h);
  return h + 0.5 * (first * (a + b) + (last - first) * (b + c) + (1 - last) * (c + d));
}

// What the edge from p to q adds.
FV_HOST_DEVICE double below_edge(double px, double py, double qx, double qy, double w, double h) {
  const double xa = clamp_to(px, w), xb = clamp_to(qx, w), dx = qx - px;
  const double slope = dx == 0 ? 0 : (qy - py) / (dx == 0 ? 1 : dx);
  return (xb - xa) * mean_above(py + (xa - px) * slope, qy + (xb - qx) * slope, h);
}

// The area two boxes share; no branches, so that it vectorises.
FV_HOST_DEVICE double shared_area(const RotatedBox& a, const RotatedBox& b) {
  const double dx = b.x - a.x, dy = b.y - a.y;
  const double x = dx * a.cosine - dy * a.sine, y = dx * a.sine + dy * a.cosine;
  const double cosine = a.cosine * b.cosine + a.sine * b.sine, sine = a.cosine * b.sine - a.sine * b.cosine;
  const double ux = b.half_width * cosine, uy = -b.half_width * sine;   // half the width's side
  const double vx = b.half_height * sine, vy = b.half_height * cosine;  // half the height's side
  const double x0 = x - ux - vx, y0 = y - uy - vy, x1 = x + ux - vx, y1 = y + uy - vy;
  const double x2 = x + ux + vx, y2 = y + uy + vy, x3 = x - ux + vx, y3 = y - uy + vy;
  const double w = a.half_width, h = a.half_height;
  const double sum = below_edge(x0, y0, x1, y1, w, h) + below_edge(x1, y1, x2, y2, w, h) +
                     below_edge(x2, y2, x3, y3, w, h) + below_edge(x3, y3, x0, y0, w, h);
  return sum < 0 ? -sum : sum;
}

// In [0, 1], and 0 only for boxes that do not meet; NaN if either box is not finite.
FV_HOST_DEVICE double rotated_iou(const RotatedBox& a, const RotatedBox& b) {
  const double least = a.area < b.area ? a.area : b.area, area = shared_area(a, b);
  constexpr double kLeast = 1e-30;  // a share that rounding cannot tell from nothing
  const bool meet = (least > 0) & !separated(a, b);
  const double inter = meet ? minimum(maximum(area, kLeast * least), least) : 0;
  const double both = a.area + b.area;  // NaN if either is
  return both == 0 ? 0 : inter / (both - inter);
}

}  // namespace fastvision
