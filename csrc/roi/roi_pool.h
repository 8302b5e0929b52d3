// RoI max pooling (Girshick 2015): parameters and checks. The bins are in pooled_axis.h.
#pragma once

#include <tuple>

#include "common/layout.h"
#include "roi/pooled_axis.h"
#include "roi/rois.h"

namespace fastvision::roi_pool {

// One call: a feature map [batch, channels, height, width] and rois [K, 5] = (image, x1, y1, x2, y2).
struct Params {
  double spatial_scale;
  int64_t pooled_height, pooled_width;
  int64_t batch, channels, height, width;
  bool exact_bins;
};

constexpr roi::CornerRule kCorners{1, 0};

template <class T>
FV_HOST_DEVICE roi::PooledAxis<T> rows_of(const Params& p, const T* roi) {
  return roi::pooled_axis<T>(roi[2], roi[4], T(p.spatial_scale), p.pooled_height, p.height, kCorners, p.exact_bins);
}

template <class T>
FV_HOST_DEVICE roi::PooledAxis<T> columns_of(const Params& p, const T* roi) {
  return roi::pooled_axis<T>(roi[1], roi[3], T(p.spatial_scale), p.pooled_width, p.width, kCorners, p.exact_bins);
}

inline Params forward_params(const char* op, const Tensor& input, const Tensor& rois, double spatial_scale,
                             int64_t pooled_height, int64_t pooled_width, bool exact_bins) {
  roi::check(op, input, rois, 5, pooled_height, pooled_width);
  FV_CHECK(input.size(2) * input.size(3) <= INT32_MAX, op, "expected a plane of at most ", INT32_MAX,
           " pixels, the width of the indices, got ", shape_of(input));
  return {spatial_scale, pooled_height, pooled_width,  input.size(0),
          input.size(1), input.size(2), input.size(3), exact_bins};
}

// (output, argmax) [K, channels, pooled_height, pooled_width], in the format of the input
inline std::tuple<Tensor, Tensor> empty_outputs(const Params& p, const Tensor& input, int64_t count) {
  const bool channels_last = is_channels_last(input);
  return {empty_map(input, count, p.channels, p.pooled_height, p.pooled_width, channels_last),
          empty_map(input, count, p.channels, p.pooled_height, p.pooled_width, channels_last, ScalarType::Int)};
}

// grad, argmax [K, channels, pooled_height, pooled_width]
inline Params backward_params(const char* op, const Tensor& grad, const Tensor& rois, const Tensor& argmax,
                              double spatial_scale, int64_t batch, int64_t height, int64_t width, bool exact_bins) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [K, C, P, Q], got ", shape_of(grad));
  roi::check(op, grad, rois, 5, grad.size(2), grad.size(3));
  FV_CHECK(grad.size(0) == rois.size(0), op, "expected grad and rois of the same length, got ", shape_of(grad), " and ",
           shape_of(rois));
  FV_CHECK(same_shape(argmax, grad) && argmax.scalar_type() == ScalarType::Int, op,
           "expected argmax of the shape of grad, ", shape_of(grad), ", and int32, got ", shape_of(argmax));
  check_same_device(op, "argmax", argmax, "grad", grad);
  FV_CHECK(batch >= 0 && height >= 0 && width >= 0, op, "expected an input size >= 0");
  return {spatial_scale, grad.size(2), grad.size(3), batch, grad.size(1), height, width, exact_bins};
}

}  // namespace fastvision::roi_pool
