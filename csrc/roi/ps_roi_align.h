// Position-sensitive RoIAlign (Li et al. 2017, Light-Head R-CNN): bins are sampled as by roi_align with aligned=True.
#pragma once

#include "common/bilinear.h"
#include "roi/position_sensitive.h"

namespace fastvision::position_sensitive {

struct Align {
  template <class T>
  static FV_HOST_DEVICE SampledAxis<T> rows(const Params& p, const T* roi) {
    return sampled_axis<T>(roi[2], roi[4], T(p.spatial_scale), p.pooled_height, p.sampling_ratio, true, p.height);
  }
  template <class T>
  static FV_HOST_DEVICE SampledAxis<T> columns(const Params& p, const T* roi) {
    return sampled_axis<T>(roi[1], roi[3], T(p.spatial_scale), p.pooled_width, p.sampling_ratio, true, p.width);
  }
};

template <class Device>
Tensor ps_roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                    int64_t pooled_width, int64_t sampling_ratio) {
  return forward<Device, Align>("ps_roi_align", input, rois, spatial_scale, pooled_height, pooled_width,
                                sampling_ratio);
}

template <class Device>
Tensor ps_roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch,
                             int64_t height, int64_t width, int64_t sampling_ratio, bool channels_last) {
  return backward<Device, Align>("ps_roi_align_backward", grad, rois, spatial_scale, batch, height, width,
                                 sampling_ratio, channels_last);
}

}  // namespace fastvision::position_sensitive
