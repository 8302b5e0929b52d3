// Non-maximum suppression: parameters, checks and the overlap measures.
#pragma once

#include <limits>
#include <optional>
#include <string>

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::nms {

constexpr const char* kOp = "nms";
constexpr const char* kPaddedOp = "nms_padded";

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

inline Metric parse_metric(const char* op, const std::string& name) {
  if (name == "iou") return Metric::kIou;
  if (name == "diou") return Metric::kDiou;
  if (name == "ios") return Metric::kIos;
  fail<std::invalid_argument>(op, "expected metric \"iou\", \"diou\" or \"ios\", got \"", name, '"');
}

// Scores and class ids, one for each box of boxes [.., 4].
inline void check_scores(const char* op, const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs) {
  const auto one_for_each_box = [&](const char* name, const Tensor& tensor) {
    bool same = tensor.dim() == boxes.dim() - 1;
    for (int64_t d = 0; same && d < tensor.dim(); ++d) same = tensor.size(d) == boxes.size(d);
    FV_CHECK(same, op, "expected ", name, " of shape ", shape_of(boxes, boxes.dim() - 1), " to match boxes ",
             shape_of(boxes), ", got ", shape_of(tensor));
    check_same_device(op, name, tensor, "boxes", boxes);
  };
  check_real(op, "boxes", boxes);
  one_for_each_box("scores", scores);
  check_floating(op, "scores", scores);
  if (!idxs) return;
  one_for_each_box("idxs", *idxs);
  FV_CHECK(is_integer(idxs->scalar_type()), op, "expected idxs of an integer dtype");
}

inline void check_threshold(const char* op, double iou_threshold) {
  FV_CHECK(iou_threshold == iou_threshold, op, "expected a number for iou_threshold, got nan");
}

inline Params make_params(const char* op, double iou_threshold, std::optional<int64_t> max_output,
                          std::optional<double> score_threshold, const std::string& metric) {
  check_threshold(op, iou_threshold);
  FV_CHECK(!max_output || *max_output >= 0, op, "expected max_output >= 0, got ", *max_output);
  Params params;
  params.threshold = iou_threshold;
  if (max_output) params.max_output = *max_output;
  params.score_threshold = score_threshold;
  params.metric = parse_metric(op, metric);
  return params;
}

// boxes [N, 4], scores [N], idxs [N] of integers where given.
inline Params validate(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                       double iou_threshold, std::optional<int64_t> max_output, std::optional<double> score_threshold,
                       const std::string& metric) {
  check_matrix(kOp, "boxes", boxes, 4);
  check_scores(kOp, boxes, scores, idxs);
  return make_params(kOp, iou_threshold, max_output, score_threshold, metric);
}

// boxes [B, N, 4], scores [B, N], idxs [B, N] of integers where given.
inline Params validate_padded(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                              double iou_threshold, int64_t max_output, std::optional<double> score_threshold,
                              const std::string& metric) {
  FV_CHECK(boxes.dim() == 3 && boxes.size(2) == 4, kPaddedOp, "expected boxes of shape [B, N, 4], got ",
           shape_of(boxes));
  check_scores(kPaddedOp, boxes, scores, idxs);
  return make_params(kPaddedOp, iou_threshold, max_output, score_threshold, metric);
}

}  // namespace fastvision::nms
