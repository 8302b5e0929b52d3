// Position-sensitive RoI pooling (Dai et al. 2016): the mean of the pixels of a bin.
#pragma once

#include "roi/pooled_axis.h"
#include "roi/position_sensitive.h"

namespace fastvision::position_sensitive {

struct Pool {
  // As published and in torchvision, the closing corner does not belong to the roi, and the last row and column of the
  // map to none.
  static constexpr roi::CornerRule kCorners{0, 1};

  template <class T>
  static FV_HOST_DEVICE roi::PooledAxis<T> rows(const Params& p, const T* roi) {
    return roi::pooled_axis<T>(roi[2], roi[4], T(p.spatial_scale), p.pooled_height, p.height, kCorners);
  }
  template <class T>
  static FV_HOST_DEVICE roi::PooledAxis<T> columns(const Params& p, const T* roi) {
    return roi::pooled_axis<T>(roi[1], roi[3], T(p.spatial_scale), p.pooled_width, p.width, kCorners);
  }
};

template <class Device>
Tensor ps_roi_pool(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                   int64_t pooled_width) {
  return forward<Device, Pool>("ps_roi_pool", input, rois, spatial_scale, pooled_height, pooled_width, 0);
}

template <class Device>
Tensor ps_roi_pool_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch, int64_t height,
                            int64_t width, bool channels_last) {
  return backward<Device, Pool>("ps_roi_pool_backward", grad, rois, spatial_scale, batch, height, width, 0,
                                channels_last);
}

}  // namespace fastvision::position_sensitive
