// RoIAlign: parameters and checks. The maths is in common/bilinear.h.
#pragma once

#include "common/bilinear.h"
#include "common/checks.h"
#include "common/layout.h"
#include "roi/rois.h"

namespace fastvision::roi_align {

constexpr int64_t kMostSamples = int64_t(1) << 20;  // a bin and axis, where the caller chooses

// One call: a feature map [batch, channels, height, width] and rois [K, 5] = (image, x1, y1, x2, y2).
struct Params {
  double spatial_scale;
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned;
  int64_t batch, channels, height, width;
};

template <class T>
FV_HOST_DEVICE SampledAxis<T> rows_of(const Params& p, const T* roi) {
  return sampled_axis<T>(roi[2], roi[4], T(p.spatial_scale), p.pooled_height, p.sampling_ratio, p.aligned, p.height);
}

template <class T>
FV_HOST_DEVICE SampledAxis<T> columns_of(const Params& p, const T* roi) {
  return sampled_axis<T>(roi[1], roi[3], T(p.spatial_scale), p.pooled_width, p.sampling_ratio, p.aligned, p.width);
}

inline void validate(const char* op, const Params& p, const Tensor& values, const Tensor& rois) {
  roi::check(op, values, rois, 5, p.pooled_height, p.pooled_width);
  FV_CHECK(p.sampling_ratio <= kMostSamples, op, "expected sampling_ratio <= ", kMostSamples, ", got ",
           p.sampling_ratio);
}

inline Params forward_params(const char* op, const Tensor& input, const Tensor& rois, double spatial_scale,
                             int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  Params p{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, 0, 0, 0, 0};
  validate(op, p, input, rois);
  p.batch = input.size(0), p.channels = input.size(1), p.height = input.size(2), p.width = input.size(3);
  return p;
}

// grad [K, channels, pooled_height, pooled_width]
inline Params backward_params(const char* op, const Tensor& grad, const Tensor& rois, double spatial_scale,
                              int64_t batch, int64_t height, int64_t width, int64_t sampling_ratio, bool aligned) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [K, C, P, Q], got ", shape_of(grad));
  Params p{spatial_scale, grad.size(2), grad.size(3), sampling_ratio, aligned, batch, grad.size(1), height, width};
  validate(op, p, grad, rois);
  FV_CHECK(grad.size(0) == rois.size(0), op, "expected grad and rois of the same length, got ", shape_of(grad), " and ",
           shape_of(rois));
  FV_CHECK(batch >= 0 && height >= 0 && width >= 0, op, "expected an input size >= 0");
  return p;
}

}  // namespace fastvision::roi_align
