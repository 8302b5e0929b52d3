// box_iou_rotated on the CPU: a row at a time, first the circles of all boxes, then the few that are near, side by
// side.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "boxes/box_iou_rotated.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/rotated_lanes.h"

namespace fastvision::box_iou_rotated {
namespace {

constexpr int kLanes = RotatedLanes::kLanes;
constexpr int kStrip = 512;  // boxes whose circles are tested before the near ones are looked at

struct Columns {
  std::vector<RotatedBox> boxes;           // [M]
  std::vector<double> x, y, radius, area;  // [M] each, for the circles

  template <class T>
  Columns(const T* rows, int64_t count, bool clockwise) : boxes(count), x(count), y(count), radius(count), area(count) {
    for (int64_t j = 0; j < count; ++j) {
      boxes[j] = rotated_box(rows + 5 * j, clockwise);
      x[j] = boxes[j].x, y[j] = boxes[j].y, radius[j] = boxes[j].radius, area[j] = boxes[j].area;
    }
  }
};

// out [count]: box `a` with boxes [begin, begin + count), count <= kStrip
template <class T>
[[gnu::always_inline]] inline void strip(const RotatedBox& a, const Columns& columns, int64_t begin, int count,
                                         T* out) {
  uint8_t far[kStrip];
  const double *x = columns.x.data() + begin, *y = columns.y.data() + begin, *radius = columns.radius.data() + begin;
  const double* area = columns.area.data() + begin;
  for (int j = 0; j < count; ++j) {
    far[j] = apart(a.x, a.y, a.radius, x[j], y[j], radius[j]);
    out[j] = T(rotated_iou_apart(a.area, area[j]));
  }
  int near[kStrip], found = 0;
  for (int j = 0; j < count; ++j) {
    near[found] = j;
    found += !far[j];
  }
  for (int base = 0; base < found; base += kLanes) {
    RotatedLanes lanes;
    const int some = std::min(kLanes, found - base);
    for (int l = 0; l < some; ++l) lanes.set(l, columns.boxes[begin + near[base + l]]);
    double value[kLanes];
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) value[l] = rotated_iou(a, lanes.at(l));
    for (int l = 0; l < some; ++l) out[near[base + l]] = T(value[l]);
  }
}

Tensor box_iou_rotated(const Tensor& boxes1, const Tensor& boxes2, bool clockwise) {
  validate(boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type);
  const int64_t n = a.size(0), m = b.size(0);
  Tensor result = empty_tensor(a, {n, m}, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* rows = a.const_data_ptr<T>();
    const Columns columns(b.const_data_ptr<T>(), m, clockwise);
    T* out = result.mutable_data_ptr<T>();
    const int64_t strips = (m + kStrip - 1) / kStrip;
    parallel_for(n * strips, 4, [&](int64_t begin, int64_t end) {
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t s = begin; s < end; ++s) {
          const int64_t i = s / strips, j = s % strips * kStrip;
          const RotatedBox box = rotated_box(rows + 5 * i, clockwise);
          strip(box, columns, j, int(std::min<int64_t>(kStrip, m - j)), out + i * m + j);
        }
      });
    });
  });
  return result;
}

}  // namespace
}  // namespace fastvision::box_iou_rotated

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("box_iou_rotated", TORCH_BOX(&fastvision::box_iou_rotated::box_iou_rotated));
}
