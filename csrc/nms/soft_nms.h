// Soft-NMS (Bodla et al. 2017): the boxes that overlap a selected one lose score instead of being dropped.
#pragma once

#include <cmath>

#include "nms/nms.h"

namespace fastvision::soft_nms {

constexpr const char* kOp = "soft_nms";

enum class Method { kGaussian, kLinear, kHard };

struct Params {
  Method method = Method::kGaussian;
  double threshold = 0.3;        // linear and hard: overlaps above it count
  double sigma = 0.5;            // gaussian
  double score_threshold = 0.0;  // scores not above it are dropped
};

// What a score is multiplied by, given its overlap with the box just selected; NaN overlaps leave it alone.
template <Method method, class T>
FV_HOST_DEVICE T decay(T overlap, T threshold, T sigma) {
  if constexpr (method == Method::kGaussian) {
    return overlap > 0 ? std::exp(-(overlap * overlap) / sigma) : T(1);  // eq. 3
  } else {
    return overlap > threshold ? (method == Method::kLinear ? 1 - overlap : T(0)) : T(1);  // eq. 2, eq. 1
  }
}

template <class F>
auto dispatch_method(Method method, F f) {
  switch (method) {
    case Method::kLinear: return f(std::integral_constant<Method, Method::kLinear>{});
    case Method::kHard: return f(std::integral_constant<Method, Method::kHard>{});
    default: return f(std::integral_constant<Method, Method::kGaussian>{});
  }
}

// boxes [N, 4], scores [N], idxs [N] of integers where given.
inline Params validate(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs,
                       double iou_threshold, double sigma, double score_threshold, const std::string& method) {
  check_matrix(kOp, "boxes", boxes, 4);
  nms::check_scores(kOp, boxes, scores, idxs);
  nms::check_threshold(kOp, iou_threshold);
  FV_CHECK(sigma > 0, kOp, "expected sigma > 0, got ", sigma);
  FV_CHECK(score_threshold >= 0, kOp, "expected score_threshold >= 0, got ", score_threshold);
  Params params{Method::kGaussian, iou_threshold, sigma, score_threshold};
  if (method == "linear") {
    params.method = Method::kLinear;
  } else if (method == "hard") {
    params.method = Method::kHard;
  } else {
    FV_CHECK(method == "gaussian", kOp, "expected method \"gaussian\", \"linear\" or \"hard\", got \"", method, '"');
  }
  return params;
}

}  // namespace fastvision::soft_nms
