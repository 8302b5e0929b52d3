// Bilinear sampling along one axis: the part of RoIAlign that rows and columns share.
//
// RoIAlign (He et al. 2017, section 3) averages a grid of bilinear samples over each bin. A sample's weight is the
// product of a row weight and a column weight, the rule for samples outside the image included, so a pooled map is
// out = A_y F A_x^T with one sparse row of A per bin: its taps. Everything below describes such a row.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/scalar.h"

namespace fastvision {

// How one axis of a roi is sampled: `bins` bins of length `bin`, `samples` equally spaced samples in each.
template <class T>
struct SampledAxis {
  T start;       // of the roi, in pixels of the feature map
  T bin;         // length of one bin; negative for an inverted roi
  T samples;     // samples a bin, integral; a float because an adaptive count can exceed any integer
  int64_t size;  // pixels of the feature map along this axis
};

// The axis of a roi from `low` to `high` (image pixels) for `bins` bins; sampling_ratio <= 0: ceil(length / bins)
// samples. Operations and their order are those of the published implementations, so that kinks fall in the same
// places.
template <class T>
FV_HOST_DEVICE SampledAxis<T> sampled_axis(T low, T high, T spatial_scale, int64_t bins, int64_t sampling_ratio,
                                           bool aligned, int64_t size) {
  const T offset = aligned ? T(0.5) : T(0);
  const T start = mul_rn(low, spatial_scale) - offset;
  const T end = mul_rn(high, spatial_scale) - offset;
  T length = end - start;
  if (!aligned && length < T(1)) length = T(1);
  SampledAxis<T> axis;
  axis.start = start;
  axis.bin = length / T(bins);
  axis.samples = sampling_ratio > 0 ? T(sampling_ratio) : std::ceil(length / T(bins));
  if (!(std::isfinite(low) && std::isfinite(high))) axis.samples = NAN;  // no sample is anywhere
  axis.size = size;
  return axis;
}

// Most taps that for_each_tap can emit for one bin: two a sample, or every pixel the bin touches.
template <class T>
FV_HOST_DEVICE int64_t most_taps(const SampledAxis<T>& axis) {
  const T by_samples = 2 * axis.samples;
  const T by_pixels = (axis.bin > 0 && axis.bin < T(axis.size) ? axis.bin : T(axis.size)) + 4;
  const T most = axis.bin >= 0 && by_pixels < by_samples ? by_pixels : by_samples;
  return most > 0 && most < T(1e9) ? int64_t(most) : 0;  // NaN and absurd counts have no samples inside
}

// Calls emit(pixel, weight) for each pixel that bin `index` reads, neighbours merged; weights include 1 / samples.
// Work is bounded by the feature map: only samples inside [-1, size] are visited, however large the roi is.
template <class T, class Emit>
FV_HOST_DEVICE void for_each_tap(const SampledAxis<T>& axis, int64_t index, Emit emit) {
  // Positions run in double: past 2^24 a float sample number would no longer advance.
  const double size = double(axis.size), samples = double(axis.samples);
  const T origin = axis.start + mul_rn(T(index), axis.bin);
  const double step = double(axis.bin) / samples;
  double first = 0, last = samples - 1;
  if (step > 0) {  // origin + (s + 1/2) step in [-1, size], one sample of slack for rounding
    first = maximum(first, std::floor((-1 - double(origin)) / step) - 1);
    last = minimum(last, std::ceil((size - double(origin)) / step) + 1);
  }
  if (!(last - first < 1e9 && samples < 1e15)) return;  // NaN or infinite rois have no sample anywhere
  const T share = T(1) / axis.samples;
  int64_t low = -2, high = -2;  // the pixels pending, not yet emitted
  T low_weight = 0, high_weight = 0;
  for (double s = first; s <= last; s += 1) {
    T position = origin + mul_rn(T(s) + T(0.5), axis.bin) / axis.samples;
    if (!(position >= T(-1) && position <= T(size))) continue;  // also false for NaN, before any cast
    if (position < 0) position = 0;
    int64_t pixel = int64_t(position), next = pixel + 1;
    if (pixel >= axis.size - 1) {
      pixel = next = axis.size - 1;
      position = T(pixel);
    }
    const T fraction = position - T(pixel);
    if (pixel == high && low != high) {  // moved on by one pixel
      emit(low, low_weight);
      low = high, low_weight = high_weight, high_weight = 0;
    } else if (pixel != low) {
      if (low >= 0) emit(low, low_weight);
      if (high >= 0 && high != low) emit(high, high_weight);
      low = pixel, low_weight = high_weight = 0;
    }
    high = next;
    low_weight += share * (1 - fraction);
    if (next != pixel) {
      high_weight += share * fraction;
    }
  }
  if (low >= 0) emit(low, low_weight);
  if (high >= 0 && high != low) emit(high, high_weight);
}

}  // namespace fastvision
