// Rois are rows (image, x1, y1, x2, y2).
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastvision::roi {

// Image of a roi, or -1 where there is none (NaN included, before any cast).
template <class T>
FV_HOST_DEVICE int64_t image_of(int64_t batch, const T* roi) {
  return roi[0] >= T(0) && roi[0] < T(batch) ? int64_t(roi[0]) : -1;
}

}  // namespace fastvision::roi
