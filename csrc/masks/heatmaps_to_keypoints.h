// Where keypoint heatmaps [N, K, M, M'], resized to their rois by bicubic interpolation, are largest. Places and scores
// are in float32, or float64 for float64 inputs: a half type would round places of a large image to whole pixels.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::heatmaps_to_keypoints {

constexpr const char* kOp = "heatmaps_to_keypoints";
constexpr int64_t kLargestSide = 1 << 20;  // pixels of a resized heatmap; larger or not finite: no keypoint

// One axis of a roi: its origin and length in pixels, and the length rounded up, that of the resized heatmap.
template <class T>
struct Axis {
  T low, length;
  int64_t pixels, size;  // size: of the heatmap

  FV_HOST_DEVICE Axis(T from, T to, int64_t heatmap) : low(from), length(maximum(to - from, T(1))), size(heatmap) {
    pixels = length <= T(kLargestSide) && low - low == 0 ? int64_t(std::ceil(length)) : 0;
  }

  FV_HOST_DEVICE T place(int64_t pixel) const { return low + (T(pixel) + T(0.5)) * (length / T(pixels)); }
};

// Four taps of cubic convolution (Keys 1981, a = -3/4) around a pixel's centre, clamped to the heatmap's edge.
template <class T>
struct Taps {
  int64_t index[4];
  T weight[4];
};

template <class T>
FV_HOST_DEVICE Taps<T> taps_of(const Axis<T>& axis, int64_t pixel) {
  const T scale = T(axis.size) / T(axis.pixels), place = scale * (T(pixel) + T(0.5)) - T(0.5);
  const T floor = std::floor(place), t = place - floor, a = T(-0.75);
  const auto near = [a](T x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  const auto far = [a](T x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  Taps<T> taps{{}, {far(t + 1), near(t), near(1 - t), far(2 - t)}};
  for (int i = 0; i < 4; ++i) {
    taps.index[i] = minimum(maximum(int64_t(floor) - 1 + i, int64_t(0)), axis.size - 1);
  }
  return taps;
}

// Whether value a at pixel i is chosen over b at j: the largest, NaN above all, the first of equals (torch.argmax).
template <class T>
FV_HOST_DEVICE bool precedes(T a, int64_t i, T b, int64_t j) {
  if (a != a || b != b) return a != a && (b == b || i < j);
  return a > b || (a == b && i < j);
}

// heatmaps [N, K, M, M'], rois [N, 4]
inline void validate(const Tensor& heatmaps, const Tensor& rois) {
  FV_CHECK(heatmaps.dim() == 4 && heatmaps.size(2) > 0 && heatmaps.size(3) > 0, kOp,
           "expected heatmaps of shape [N, K, M, M], got ", shape_of(heatmaps));
  check_matrix(kOp, "rois", rois, 4);
  FV_CHECK(heatmaps.size(0) == rois.size(0), kOp, "expected as many rois as heatmaps, got ", shape_of(rois), " and ",
           shape_of(heatmaps));
  check_floating(kOp, "heatmaps", heatmaps);
  check_real(kOp, "rois", rois);
  check_same_device(kOp, "rois", rois, "heatmaps", heatmaps);
}

}  // namespace fastvision::heatmaps_to_keypoints
