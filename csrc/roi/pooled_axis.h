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
  T start, length, bin;  // the first pixel of the roi, which may lie outside; its pixels and those a bin
  int64_t bins, limit;   // no pixel from the limit on is read

  bool exact;  // bin edges as quotients of integers: a bin of a real length can round past a whole pixel

  FV_HOST_DEVICE PixelRange operator[](int64_t index) const {
    if (exact) {
      const int64_t pixels = length < T(INT32_MAX) ? int64_t(length) : INT32_MAX;
      return {clip(start + T(index * pixels / bins)), clip(start + T(((index + 1) * pixels + bins - 1) / bins))};
    }
    return {clip(start + std::floor(mul_rn(T(index), bin))), clip(start + std::ceil(mul_rn(T(index + 1), bin)))};
  }

  // of all bins
  FV_HOST_DEVICE PixelRange extent() const { return {(*this)[0].low, (*this)[bins - 1].high}; }

 private:
  // 0 for NaN, so that such a roi has no pixels. T(limit) may be rounded up, an integer is not.
  FV_HOST_DEVICE int64_t clip(T pixel) const {
    if (!(pixel > 0)) return 0;
    return pixel < T(limit) ? minimum(int64_t(pixel), limit) : limit;
  }
};

// What the corners of a roi stand for.
struct CornerRule {
  int64_t closing;  // 1: the last pixel belongs to the roi, 0: it does not
  int64_t margin;   // so many pixels at the end of the map are never read
};

// Corners are rounded, half away from zero; a roi is at least a pixel long. Operations and their order are those of the
// published implementations.
template <class T>
FV_HOST_DEVICE PooledAxis<T> pooled_axis(T low, T high, T spatial_scale, int64_t bins, int64_t size, CornerRule rule,
                                         bool exact = false) {
  const T start = std::round(mul_rn(low, spatial_scale)), end = std::round(mul_rn(high, spatial_scale));
  const T length = maximum(end - start + T(rule.closing), T(1));
  const bool finite = std::isfinite(low) && std::isfinite(high);
  return {finite ? start : T(NAN), length, length / T(bins), bins, size - rule.margin, exact};
}

// The mean of a bin: emit(pixel, weight).
template <class T, class Emit>
FV_HOST_DEVICE void for_each_tap(const PooledAxis<T>& axis, int64_t index, Emit emit) {
  const PixelRange range = axis[index];
  for (int64_t pixel = range.low; pixel < range.high; ++pixel) emit(pixel, T(1) / T(range.high - range.low));
}

}  // namespace fastvision::roi
