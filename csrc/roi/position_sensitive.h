// Position-sensitive pooling (Dai et al. 2016, R-FCN): bin (i, j) of output channel c is pooled from input channel
// (c P + i) Q + j alone. The ops, written once for both devices and both ways to pool a bin. A Sampler has
//   rows(params, roi), columns(params, roi)   an axis with for_each_tap(axis, bin, emit)
// and a Device
//   pool<Sampler>(op, params, input, rois, output)   and its transpose   unpool<Sampler>(op, params, grad, rois, map)
// with rois contiguous and in the geometry type of the map.
#pragma once

#include "common/layout.h"
#include "roi/rois.h"

namespace fastvision::position_sensitive {

constexpr int64_t kMostSamples = int64_t(1) << 20;  // a bin and axis, where the caller chooses

// One call: a feature map [batch, outputs * P * Q, height, width] and rois [K, 5] = (image, x1, y1, x2, y2).
struct Params {
  double spatial_scale;
  int64_t pooled_height, pooled_width, sampling_ratio;
  int64_t batch, outputs, height, width;

  FV_HOST_DEVICE int64_t bins() const { return pooled_height * pooled_width; }
};

inline void validate(const char* op, const Params& p, const Tensor& values, const Tensor& rois) {
  roi::check(op, values, rois, 5, p.pooled_height, p.pooled_width);
  FV_CHECK(p.sampling_ratio <= kMostSamples, op, "expected sampling_ratio <= ", kMostSamples, ", got ",
           p.sampling_ratio);
}

template <class Device, class Sampler>
Tensor forward(const char* op, const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
               int64_t pooled_width, int64_t sampling_ratio) {
  Params p{spatial_scale, pooled_height, pooled_width, sampling_ratio, 0, 0, 0, 0};
  validate(op, p, input, rois);
  // one axis at a time: P * Q can overflow
  FV_CHECK(input.size(1) % pooled_height == 0 && input.size(1) / pooled_height % pooled_width == 0, op,
           "expected a multiple of ", pooled_height, " x ", pooled_width, " channels, got ", input.size(1));
  p.batch = input.size(0), p.outputs = input.size(1) / p.bins(), p.height = input.size(2), p.width = input.size(3);
  roi::check_plane(op, p.height, p.width);
  Tensor output = empty_map(input, rois.size(0), p.outputs, pooled_height, pooled_width, is_channels_last(input));
  Device::template pool<Sampler>(op, p, input, contiguous_as(rois, geometry_type(input.scalar_type())), output);
  return output;
}

// grad [K, outputs, pooled_height, pooled_width]
template <class Device, class Sampler>
Tensor backward(const char* op, const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch,
                int64_t height, int64_t width, int64_t sampling_ratio, bool channels_last) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [K, C, P, Q], got ", shape_of(grad));
  const Params p{spatial_scale, grad.size(2), grad.size(3), sampling_ratio, batch, grad.size(1), height, width};
  validate(op, p, grad, rois);
  FV_CHECK(grad.size(0) == rois.size(0), op, "expected grad and rois of the same length, got ", shape_of(grad), " and ",
           shape_of(rois));
  FV_CHECK(batch >= 0, op, "expected an input size >= 0");
  roi::check_plane(op, height, width);
  Tensor map = empty_map(grad, batch, p.outputs * p.bins(), height, width, channels_last);
  Device::template unpool<Sampler>(op, p, grad, contiguous_as(rois, geometry_type(grad.scalar_type())), map);
  return map;
}

}  // namespace fastvision::position_sensitive
