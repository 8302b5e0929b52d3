// RoIAlign on one feature map or on the levels of a pyramid: parameters and geometry. The maths of an axis is in
// common/bilinear.h.
#pragma once

#include <cmath>
#include <type_traits>
#include <vector>

#include "common/bilinear.h"
#include "common/layout.h"
#include "roi/rois.h"

namespace fastvision::roi_align {

constexpr int64_t kMostSamples = int64_t(1) << 20;  // a bin and axis, where the caller chooses

struct Level {
  double spatial_scale;
  int64_t height, width;
};

// One call: levels [batch, channels, height, width] and rois [K, 5] = (image, x1, y1, x2, y2).
struct Params {
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned;
  int64_t batch, channels;
  double canonical_scale, canonical_level;  // a roi of this side belongs to this level
  int64_t first_level;                      // what level[0] is called: level l has 2^-l pixels per image pixel
  int64_t levels;
  Level level[kMostLevels];
};

// The level to pool a roi from (Lin et al. 2017, equation 1), or -1 for one without a size. Operations and their order
// are torchvision's; in float32 the logarithm is that of float64 rounded, so that all
// devices agree.
template <class T>
FV_HOST_DEVICE int64_t level_of(const Params& p, const T* roi) {
  if (p.levels == 1) return 0;
  const T side = std::sqrt(mul_rn(roi[3] - roi[1], roi[4] - roi[2]));
  const T octaves = T(std::log2(double(div_rn(side, T(p.canonical_scale)))));
  const T level = std::floor(add_rn(add_rn(T(p.canonical_level), octaves), T(1e-6)));
  if (!(level == level)) return -1;  // NaN: one side is negative or not a number
  return int64_t(minimum(maximum(level - T(p.first_level), T(0)), T(p.levels - 1)));
}

template <class T>
FV_HOST_DEVICE SampledAxis<T> rows_of(const Params& p, const Level& level, const T* roi) {
  return sampled_axis<T>(roi[2], roi[4], T(level.spatial_scale), p.pooled_height, p.sampling_ratio, p.aligned,
                         level.height);
}

template <class T>
FV_HOST_DEVICE SampledAxis<T> columns_of(const Params& p, const Level& level, const T* roi) {
  return sampled_axis<T>(roi[1], roi[3], T(level.spatial_scale), p.pooled_width, p.sampling_ratio, p.aligned,
                         level.width);
}

template <class T>
FV_HOST_DEVICE AxisMotion<T> row_motion(const Params& p, const Level& level, const T* roi) {
  return axis_motion(rows_of(p, level, roi), roi[2], roi[4], T(level.spatial_scale), p.pooled_height, p.aligned);
}

template <class T>
FV_HOST_DEVICE AxisMotion<T> column_motion(const Params& p, const Level& level, const T* roi) {
  return axis_motion(columns_of(p, level, roi), roi[1], roi[3], T(level.spatial_scale), p.pooled_width, p.aligned);
}

// Where the values of each level are.
template <class S>
struct Maps {
  S* data[kMostLevels];
  Strides step[kMostLevels];
};

template <class S>
Maps<S> maps_of(const std::vector<Tensor>& tensors) {
  Maps<S> maps{};
  for (size_t l = 0; l < tensors.size(); ++l) {
    if constexpr (std::is_const_v<S>) {
      maps.data[l] = tensors[l].const_data_ptr<std::remove_const_t<S>>();
    } else {
      maps.data[l] = tensors[l].mutable_data_ptr<S>();
    }
    maps.step[l] = strides_of(tensors[l]);
  }
  return maps;
}

}  // namespace fastvision::roi_align
