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
  if (!(most > 0)) return 0;  // NaN too: no samples
  return most < T(1e9) ? int64_t(most) : int64_t(1e9);
}

// One bilinear sample along an axis: (1 - fraction) of pixel `low` and `fraction` of pixel `high`.
template <class T>
struct Sample {
  int64_t low, high;  // equal at the border
  T fraction;
  bool inside;   // of the map; outside, up to one pixel, the border's value holds, wherever the sample moves
  double index;  // in the bin
};

// Calls visit(sample) for each sample of bin `index` within [-1, size]. Work is bounded by the feature map: only those
// samples are visited, however large the roi is.
template <class T, class Visit>
FV_HOST_DEVICE void for_each_sample(const SampledAxis<T>& axis, int64_t index, Visit visit) {
  // Positions run in double: past 2^24 a float sample number would no longer advance.
  const double size = double(axis.size), samples = double(axis.samples);
  const T origin = axis.start + mul_rn(T(index), axis.bin);
  const double step = double(axis.bin) / samples;
  double first = 0, last = samples - 1;
  if (step > 0) {  // origin + (s + 1/2) step in [-1, size], one sample of slack for rounding
    first = maximum(first, std::floor((-1 - double(origin)) / step) - 1);
    last = minimum(last, std::ceil((size - double(origin)) / step) + 1);
  }
  // NaN or infinite rois have no sample anywhere, nor has an empty map
  if (!(last - first < 1e9 && samples < 1e15) || axis.size <= 0) return;
  for (double s = first; s <= last; s += 1) {
    T position = origin + mul_rn(T(s) + T(0.5), axis.bin) / axis.samples;
    if (!(position >= T(-1) && position <= T(size))) continue;  // also false for NaN, before any cast
    const bool inside = position >= 0;
    if (!inside) position = 0;
    int64_t pixel = int64_t(position), next = pixel + 1;
    if (pixel >= axis.size - 1) {
      pixel = next = axis.size - 1;
      position = T(pixel);
    }
    visit(Sample<T>{pixel, next, position - T(pixel), inside && next != pixel, s});
  }
}

// Calls emit(pixel, weight) for each pixel that bin `index` reads, neighbours merged; weights include 1 / samples.
template <class T, class Emit>
FV_HOST_DEVICE void for_each_tap(const SampledAxis<T>& axis, int64_t index, Emit emit) {
  const T share = T(1) / axis.samples;
  int64_t low = -2, high = -2;  // the pixels pending, not yet emitted
  T low_weight = 0, high_weight = 0;
  for_each_sample(axis, index, [&](const Sample<T>& sample) {
    if (sample.low == high && low != high) {  // moved on by one pixel
      emit(low, low_weight);
      low = high, low_weight = high_weight, high_weight = 0;
    } else if (sample.low != low) {
      if (low >= 0) emit(low, low_weight);
      if (high >= 0 && high != low) emit(high, high_weight);
      low = sample.low, low_weight = high_weight = 0;
    }
    high = sample.high;
    low_weight += share * (1 - sample.fraction);
    if (sample.high != sample.low) high_weight += share * sample.fraction;
  });
  if (low >= 0) emit(low, low_weight);
  if (high >= 0 && high != low) emit(high, high_weight);
}

// How the samples of an axis follow the two edges of their roi.
template <class T>
struct AxisMotion {
  T scale, bins, samples;
  bool rigid;  // a roi kept at length 1 moves with its low edge alone
};

template <class T>
FV_HOST_DEVICE AxisMotion<T> axis_motion(const SampledAxis<T>& axis, T low, T high, T spatial_scale, int64_t bins,
                                         bool aligned) {
  return {spatial_scale, T(bins), axis.samples,
          !aligned && mul_rn(high, spatial_scale) - mul_rn(low, spatial_scale) < T(1)};
}

// d position / d (low edge) and d position / d (high edge) of a sample of bin `index`; zero where the border holds it.
template <class T>
struct EdgeSlopes {
  T low, high;
};

template <class T>
FV_HOST_DEVICE EdgeSlopes<T> edge_slopes(const AxisMotion<T>& motion, int64_t index, const Sample<T>& sample) {
  if (!sample.inside) return {T(0), T(0)};
  if (motion.rigid) return {motion.scale, T(0)};
  const T along = (T(index) + (T(sample.index) + T(0.5)) / motion.samples) / motion.bins;
  return {motion.scale * (1 - along), motion.scale * along};
}

}  // namespace fastvision
