// nms on CUDA: suppress.cuh with upright boxes, of one set and of a batch of sets.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "nms/suppress.cuh"

namespace fastvision::nms {
namespace {

template <class T, Metric metric>
struct Upright {
  using Row = T;
  using Box = fastvision::Box<T>;
  static constexpr int kColumns = 4;
  T threshold;

  FV_DEVICE Box load(const T* row) const { return {row[0], row[1], row[2], row[3]}; }
  FV_DEVICE bool over(const Box& kept, const Box& other) const {
    return overlap<metric>(kept, other, box_area(kept), box_area(other)) > threshold;
  }
};

Kept suppress_upright(const char* op, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                      int64_t sets, int64_t limit, const Params& params) {
  const ScalarType type = geometry_type(boxes.scalar_type());
  const Tensor rows = contiguous_as(boxes, type), plain = contiguous_as(scores, geometry_type(scores.scalar_type()));
  std::optional<Tensor> classes;
  if (idxs) classes = contiguous_as(*idxs, ScalarType::Long);
  return dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    return dispatch_metric(params.metric, [&](auto m) {
      const Upright<T, decltype(m)::value> measure{T(params.threshold)};
      return suppress(op, measure, rows, plain, classes, sets, boxes.size(-2), limit, params.score_threshold);
    });
  });
}

Tensor nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs, double iou_threshold,
           std::optional<int64_t> max_output, std::optional<double> score_threshold, std::string metric) {
  const Params params = validate(boxes, scores, idxs, iou_threshold, max_output, score_threshold, metric);
  const int64_t n = boxes.size(0), limit = minimum(n, params.max_output);
  if (limit == 0) return empty_vector(boxes, 0, ScalarType::Long);
  return trimmed(kOp, suppress_upright(kOp, boxes, scores, idxs, 1, limit, params), limit);
}

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs,
                                      double iou_threshold, int64_t max_output, std::optional<double> score_threshold,
                                      std::string metric) {
  const Params params = validate_padded(boxes, scores, idxs, iou_threshold, max_output, score_threshold, metric);
  const Kept kept = suppress_upright(kPaddedOp, boxes, scores, idxs, boxes.size(0), max_output, params);
  // counts is a part of a larger buffer, which the caller should not keep alive
  return {kept.indices, torch::stable::clone(kept.counts)};
}

}  // namespace
}  // namespace fastvision::nms

FV_CUDA_LIBRARY(m) {
  m.impl("nms", TORCH_BOX(&fastvision::nms::nms));
  m.impl("nms_padded", TORCH_BOX(&fastvision::nms::nms_padded));
}
