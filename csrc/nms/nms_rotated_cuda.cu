// nms_rotated on CUDA: suppress.cuh with rotated boxes.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "nms/nms_rotated.h"
#include "nms/suppress.cuh"

namespace fastvision::nms_rotated {
namespace {

template <class T>
struct Rotated {
  using Row = T;
  using Box = RotatedBox;
  static constexpr int kColumns = 5;
  double threshold;
  bool clockwise;

  FV_DEVICE Box load(const T* row) const { return rotated_box(row, clockwise); }
  FV_DEVICE bool over(const Box& kept, const Box& other) const {
    const bool far = apart(kept.x, kept.y, kept.radius, other.x, other.y, other.radius);
    return (far ? rotated_iou_apart(kept.area, other.area) : rotated_iou(kept, other)) > threshold;
  }
};

Tensor nms_rotated(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs, double iou_threshold,
                   bool clockwise) {
  validate(boxes, scores, idxs, iou_threshold);
  const int64_t n = boxes.size(0);
  if (n == 0) return empty_vector(boxes, 0, ScalarType::Long);
  const ScalarType type = geometry_type(boxes.scalar_type());
  const Tensor rows = contiguous_as(boxes, type), plain = contiguous_as(scores, geometry_type(scores.scalar_type()));
  std::optional<Tensor> classes;
  if (idxs) classes = contiguous_as(*idxs, ScalarType::Long);
  return dispatch_geometry(type, [&](auto t) {
    const Rotated<typename decltype(t)::type> measure{iou_threshold, clockwise};
    return nms::trimmed(kOp, nms::suppress(kOp, measure, rows, plain, classes, 1, n, n, std::nullopt), n);
  });
}

}  // namespace
}  // namespace fastvision::nms_rotated

FV_CUDA_LIBRARY(m) { m.impl("nms_rotated", TORCH_BOX(&fastvision::nms_rotated::nms_rotated)); }
