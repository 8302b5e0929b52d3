// RoIAlign of rotated regions: parameters, checks and where the samples are (Ma et al. 2018, RRPN; the conventions are
// Detectron2's, or mmcv's).
#pragma once

#include <cmath>

#include "common/angle.h"
#include "common/layout.h"
#include "common/scalar.h"
#include "roi/rois.h"

namespace fastvision::roi_align_rotated {

constexpr int64_t kMostSamples = 1024;  // a bin and axis, where the caller chooses: samples are visited one by one

// One call: a feature map [batch, channels, height, width] and rois [K, 6] = (image, cx, cy, width, height, degrees).
struct Params {
  double spatial_scale;
  int64_t pooled_height, pooled_width, sampling_ratio;
  bool aligned, clockwise;
  int64_t batch, channels, height, width;
};

// A region in pixels of the map. Sample (a, b) of bin (i, j) is at (u, v) from its centre along its own axes,
// u = left + (j + (b + 1/2) / samples_x) bin_width, v = top + (i + (a + 1/2) / samples_y) bin_height.
template <class T>
struct Region {
  T centre_x, centre_y, left, top, bin_width, bin_height;
  T samples_x, samples_y;  // a bin; NaN for a region that has none
  T cosine, sine;
  int64_t height, width;  // of the map
};

template <class T>
FV_HOST_DEVICE Region<T> region_of(const Params& p, const T* roi) {
  const T scale = T(p.spatial_scale), offset = p.aligned ? T(0.5) : T(0);
  T width = mul_rn(roi[3], scale), height = mul_rn(roi[4], scale);
  if (!p.aligned) width = maximum(width, T(1)), height = maximum(height, T(1));
  Region<T> r;
  r.centre_x = mul_rn(roi[1], scale) - offset, r.centre_y = mul_rn(roi[2], scale) - offset;
  r.left = -width / 2, r.top = -height / 2;
  r.bin_width = width / T(p.pooled_width), r.bin_height = height / T(p.pooled_height);
  r.samples_x = p.sampling_ratio > 0 ? T(p.sampling_ratio) : std::ceil(r.bin_width);
  r.samples_y = p.sampling_ratio > 0 ? T(p.sampling_ratio) : std::ceil(r.bin_height);
  // exact at quarter turns, so that there a region is the rotated map's
  const double angle = p.clockwise ? -double(roi[5]) : double(roi[5]);
  r.cosine = T(cosine_of(angle)), r.sine = T(sine_of(angle));
  r.height = p.height, r.width = p.width;
  for (int c = 1; c < 6; ++c) {
    if (!std::isfinite(roi[c])) r.samples_x = NAN;
  }
  return r;
}

// Smallest and largest integers in [0, count) for which low <= origin + step * s <= high can hold; one of slack.
struct SampleRange {
  double first, last;

  FV_HOST_DEVICE void clip(double origin, double step, double low, double high) {
    if (last - first < 8) return;  // so few are as soon looked at as left out
    if (step == 0) {
      if (!(origin >= low - 1 && origin <= high + 1)) last = first - 1;
      return;
    }
    const double a = (low - origin) / step, b = (high - origin) / step;
    first = maximum(first, std::floor(minimum(a, b)) - 1);
    last = minimum(last, std::ceil(maximum(a, b)) + 1);
  }
};

// Bilinear weights of one sample: rows y_low and y_high, columns x_low and x_high.
template <class T>
struct Sample {
  int64_t y_low, y_high, x_low, x_high;
  T y, x;  // fractions of y_high and x_high
};

// emit(sample) for each sample of bin (i, j) within [-1, height] x [-1, width]; `share` of each is 1 / (samples_x
// samples_y). Work is bounded by the map where the number of samples is adaptive: rows and columns of samples are cut
// to what can lie inside.
template <class T, class Emit>
FV_HOST_DEVICE void for_each_sample(const Region<T>& r, int64_t i, int64_t j, Emit emit) {
  const double height = double(r.height), width = double(r.width), cosine = double(r.cosine), sine = double(r.sine);
  const double step_x = double(r.bin_width) / double(r.samples_x), step_y = double(r.bin_height) / double(r.samples_y);
  if (!(r.samples_x >= 1 && r.samples_y >= 1 && r.samples_x < T(1e15) && r.samples_y < T(1e15))) return;
  if (r.height <= 0 || r.width <= 0) return;
  // of the map's corners along the region's v axis
  const double to_left = -1 - double(r.centre_x), to_right = width - double(r.centre_x);
  const double to_top = -1 - double(r.centre_y), to_bottom = height - double(r.centre_y);
  const double v_low = minimum(to_left * sine, to_right * sine) + minimum(to_top * cosine, to_bottom * cosine);
  const double v_high = maximum(to_left * sine, to_right * sine) + maximum(to_top * cosine, to_bottom * cosine);
  const T bin_top = r.top + mul_rn(T(i), r.bin_height), bin_left = r.left + mul_rn(T(j), r.bin_width);
  SampleRange rows{0, double(r.samples_y) - 1};
  rows.clip(double(bin_top) + 0.5 * step_y, step_y, v_low, v_high);
  for (double a = rows.first; a <= rows.last; a += 1) {
    const T v = bin_top + mul_rn(T(a) + T(0.5), r.bin_height) / r.samples_y;
    SampleRange columns{0, double(r.samples_x) - 1};
    const double u = double(bin_left) + 0.5 * step_x;
    columns.clip(double(v) * sine + u * cosine + double(r.centre_x), step_x * cosine, -1, width);
    columns.clip(double(v) * cosine - u * sine + double(r.centre_y), -step_x * sine, -1, height);
    for (double b = columns.first; b <= columns.last; b += 1) {
      const T along = bin_left + mul_rn(T(b) + T(0.5), r.bin_width) / r.samples_x;
      T y = sub_rn(mul_rn(v, r.cosine), mul_rn(along, r.sine)) + r.centre_y;
      T x = add_rn(mul_rn(v, r.sine), mul_rn(along, r.cosine)) + r.centre_x;
      // also false for NaN, before any cast
      if (!(y >= T(-1) && y <= T(height) && x >= T(-1) && x <= T(width))) continue;
      y = maximum(y, T(0)), x = maximum(x, T(0));
      const int64_t last_y = r.height - 1, last_x = r.width - 1;
      const int64_t y_low = minimum(int64_t(y), last_y), x_low = minimum(int64_t(x), last_x);
      emit(Sample<T>{y_low, minimum(y_low + 1, last_y), x_low, minimum(x_low + 1, last_x),
                     y_low == last_y ? T(0) : y - T(y_low), x_low == last_x ? T(0) : x - T(x_low)});
    }
  }
}

// emit(row, column, weight) for the up to four pixels of each sample that have a weight, `share` included.
template <class T, class Emit>
FV_HOST_DEVICE void for_each_tap(const Region<T>& r, int64_t i, int64_t j, Emit emit) {
  const T share = T(1) / (r.samples_x * r.samples_y);
  for_each_sample(r, i, j, [&](const Sample<T>& s) {
    const T top = share * (1 - s.y), bottom = share * s.y;
    const auto emit_weighted = [&](int64_t y, int64_t x, T weight) {
      if (weight != 0) emit(y, x, weight);
    };
    emit_weighted(s.y_low, s.x_low, top * (1 - s.x)), emit_weighted(s.y_low, s.x_high, top * s.x);
    emit_weighted(s.y_high, s.x_low, bottom * (1 - s.x)), emit_weighted(s.y_high, s.x_high, bottom * s.x);
  });
}

inline void validate(const char* op, const Params& p, const Tensor& values, const Tensor& rois) {
  roi::check(op, values, rois, 6, p.pooled_height, p.pooled_width);
  FV_CHECK(p.sampling_ratio <= kMostSamples, op, "expected sampling_ratio <= ", kMostSamples, ", got ",
           p.sampling_ratio);
}

inline Params forward_params(const char* op, const Tensor& input, const Tensor& rois, double spatial_scale,
                             int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned,
                             bool clockwise) {
  Params p{spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise, 0, 0, 0, 0};
  validate(op, p, input, rois);
  p.batch = input.size(0), p.channels = input.size(1), p.height = input.size(2), p.width = input.size(3);
  roi::check_plane(op, p.height, p.width);
  return p;
}

// grad [K, channels, pooled_height, pooled_width]
inline Params backward_params(const char* op, const Tensor& grad, const Tensor& rois, double spatial_scale,
                              int64_t batch, int64_t height, int64_t width, int64_t sampling_ratio, bool aligned,
                              bool clockwise) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [K, C, P, Q], got ", shape_of(grad));
  Params p{spatial_scale, grad.size(2), grad.size(3), sampling_ratio, aligned,
           clockwise,     batch,        grad.size(1), height,         width};
  validate(op, p, grad, rois);
  FV_CHECK(grad.size(0) == rois.size(0), op, "expected grad and rois of the same length, got ", shape_of(grad), " and ",
           shape_of(rois));
  FV_CHECK(batch >= 0, op, "expected an input size >= 0");
  roi::check_plane(op, height, width);
  return p;
}

}  // namespace fastvision::roi_align_rotated
