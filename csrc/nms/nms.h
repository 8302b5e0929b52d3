// Non-maximum suppression: parameters, checks and the overlap measures.
#pragma once

#include <limits>
#include <optional>
#include <string>

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::nms {

constexpr const char* kOp = "nms";

enum class Metric { kIou, kDiou, kIos };

struct Params {
  double threshold = 0.5;
  int64_t max_output = std::numeric_limits<int64_t>::max();
  std::optional<double> score_threshold;
  Metric metric = Metric::kIou;
};

// Overlap of a kept box with a candidate; suppression is `overlap > threshold`, so NaN suppresses nothing.
template <Metric metric, class T>
FV_HOST_DEVICE T overlap(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  if constexpr (metric == Metric::kIou) {
    return iou(a, b, area_a, area_b);
  } else if constexpr (metric == Metric::kIos) {  // intersection over the smaller box (SAHI's "IOS")
    const T both = area_a + area_b;               // NaN if either is
    return div_rn(intersection(a, b), both == both ? minimum(area_a, area_b) : both);
  } else {  // IoU - d^2 / c^2, centre distance over enclosing diagonal (Zheng et al. 2020, eq. 7)
    const T dx = (a.x1 + a.x2 - b.x1 - b.x2) / 2, dy = (a.y1 + a.y2 - b.y1 - b.y2) / 2;
    const T cw = maximum(a.x2, b.x2) - minimum(a.x1, b.x1);
    const T ch = maximum(a.y2, b.y2) - minimum(a.y1, b.y1);
    const T distance = mul_rn(dx, dx) + mul_rn(dy, dy), diagonal = mul_rn(cw, cw) + mul_rn(ch, ch);
    return iou(a, b, area_a, area_b) - div_rn(distance, diagonal);
  }
}

// Calls f with a std::integral_constant of the metric.
template <class F>
auto dispatch_metric(Metric metric, F f) {
  switch (metric) {
    case Metric::kDiou: return f(std::integral_constant<Metric, Metric::kDiou>{});
    case Metric::kIos: return f(std::integral_constant<Metric, Metric::kIos>{});
    default: return f(std::integral_constant<Metric, Metric::kIou>{});
  }
}

inline Metric parse_metric(const std::string& name) {
  if (name == "iou") return Metric::kIou;
  if (name == "diou") return Metric::kDiou;
  if (name == "ios") return Metric::kIos;
  fail<std::invalid_argument>(kOp, "expected metric \"iou\", \"diou\" or \"ios\", got \"", name, '"');
}

// boxes [N, 4], scores [N], idxs [N] of integers where given.
inline Params validate(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                       double iou_threshold, std::optional<int64_t> max_output, std::optional<double> score_threshold,
                       const std::string& metric) {
  check_matrix(kOp, "boxes", boxes, 4);
  FV_CHECK(scores.dim() == 1 && scores.size(0) == boxes.size(0), kOp, "expected scores of shape [", boxes.size(0),
           "] to match boxes ", shape_of(boxes), ", got ", shape_of(scores));
  check_real(kOp, "boxes", boxes);
  check_floating(kOp, "scores", scores);
  check_same_device(kOp, "scores", scores, "boxes", boxes);
  if (idxs) {
    FV_CHECK(idxs->dim() == 1 && idxs->size(0) == boxes.size(0), kOp, "expected idxs of shape [", boxes.size(0),
             "] to match boxes ", shape_of(boxes), ", got ", shape_of(*idxs));
    FV_CHECK(is_integer(idxs->scalar_type()), kOp, "expected idxs of an integer dtype");
    check_same_device(kOp, "idxs", *idxs, "boxes", boxes);
  }
  FV_CHECK(iou_threshold == iou_threshold, kOp, "expected a number for iou_threshold, got nan");
  FV_CHECK(!max_output || *max_output >= 0, kOp, "expected max_output >= 0, got ", *max_output);
  Params params;
  params.threshold = iou_threshold;
  if (max_output) params.max_output = *max_output;
  params.score_threshold = score_threshold;
  params.metric = parse_metric(metric);
  return params;
}

}  // namespace fastvision::nms
