// The bins of RoI pooling along one axis: whole pixels, neighbours may share one.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/scalar.h"

namespace fastvision::roi {

// Pixels [low, high) of a bin.
struct PixelRange {
  int64_t low, high;
};

template <class T>
struct PooledAxis {
  T start, bin;  // the first pixel of the roi, which may lie outside; pixels a bin
  int64_t bins, size;

  FV_HOST_DEVICE PixelRange operator[](int64_t index) const {
    return {clip(start + std::floor(mul_rn(T(index), bin))), clip(start + std::ceil(mul_rn(T(index + 1), bin)))};
  }

  // of all bins
  FV_HOST_DEVICE PixelRange extent() const { return {(*this)[0].low, (*this)[bins - 1].high}; }

 private:
  // False for NaN, so that such a roi has no pixels. Exact where coordinates are: to 2^24 in float.
  FV_HOST_DEVICE int64_t clip(T pixel) const { return pixel > 0 ? int64_t(minimum(pixel, T(size))) : 0; }
};

// Corners are rounded, half away from zero, and both belong to the roi, which is at least a pixel long (Girshick 2015;
// the operations are those of Caffe's layer and of torchvision's op).
template <class T>
FV_HOST_DEVICE PooledAxis<T> pooled_axis(T low, T high, T spatial_scale, int64_t bins, int64_t size) {
  const T start = std::round(mul_rn(low, spatial_scale)), end = std::round(mul_rn(high, spatial_scale));
  const T length = maximum(end - start + 1, T(1));
  const bool finite = std::isfinite(low) && std::isfinite(high);
  return {finite ? start : T(NAN), length / T(bins), bins, size};
}

}  // namespace fastvision::roi
