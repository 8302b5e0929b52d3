// Rois are rows (image, x1, y1, x2, y2), rotated ones (image, cx, cy, width, height, angle).
#pragma once

#include <cstdint>

#include "common/checks.h"
#include "common/host_device.h"

namespace fastvision::roi {

// Image of a roi, or -1 where there is none (NaN included, before any cast).
template <class T>
FV_HOST_DEVICE int64_t image_of(int64_t batch, const T* roi) {
  return roi[0] >= T(0) && roi[0] < T(batch) ? int64_t(roi[0]) : -1;
}

// values: a feature map or its gradient; columns: of rois
inline void check(const char* op, const Tensor& values, const Tensor& rois, int64_t columns, int64_t pooled_height,
                  int64_t pooled_width) {
  FV_CHECK(values.dim() == 4, op, "expected a feature map of shape [N, C, H, W], got ", shape_of(values));
  check_floating(op, "the feature map", values);
  check_matrix(op, "rois", rois, columns);
  check_real(op, "rois", rois);
  check_same_device(op, "rois", rois, "the feature map", values);
  FV_CHECK(pooled_height > 0 && pooled_width > 0, op, "expected a positive output size, got [", pooled_height, ", ",
           pooled_width, "]");
  constexpr int64_t kMostBins = int64_t(1) << 40;  // times channels, still far from overflow
  FV_CHECK(pooled_height <= kMostBins / pooled_width, op, "expected at most ", kMostBins, " bins, got ", pooled_height,
           " x ", pooled_width);
}

// Pixels are counted in 32 bits along each axis.
inline void check_plane(const char* op, int64_t height, int64_t width) {
  FV_CHECK(height >= 0 && width >= 0 && height < INT32_MAX && width < INT32_MAX, op,
           "expected a height and width of at least 0 and less than ", INT32_MAX, ", got [", height, ", ", width, "]");
}

}  // namespace fastvision::roi
