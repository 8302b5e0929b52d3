// Rois by image, for kernels that work on one image at a time.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "common/checks.h"
#include "roi/rois.h"

namespace fastvision::roi {

// Rois of each image: those of image n are order[offsets[n] .. offsets[n + 1]), from the top of the image to the
// bottom, so that consecutive rois meet the same rows in cache. The order depends on the rois alone, never on the
// threads.
struct ImageGroups {
  std::vector<int64_t> order, offsets;

  template <class T>
  ImageGroups(const char* op, int64_t batch, const T* rois, int64_t count) : offsets(batch + 1, 0) {
    std::vector<int64_t> image(count);
    for (int64_t k = 0; k < count; ++k) {
      image[k] = image_of(batch, rois + 5 * k);
      if (image[k] < 0) {
        fail<std::out_of_range>(op, "expected rois[", k, ", 0], the image of the roi, in [0, ", batch, "), got ",
                                rois[5 * k]);
      }
      ++offsets[image[k] + 1];
    }
    for (int64_t n = 0; n < batch; ++n) offsets[n + 1] += offsets[n];
    order.resize(count);
    std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
    for (int64_t k = 0; k < count; ++k) order[next[image[k]]++] = k;
    std::vector<T> middle(count);
    for (int64_t k = 0; k < count; ++k) {
      const T sum = rois[5 * k + 2] + rois[5 * k + 4];
      middle[k] = sum == sum ? sum : T(0);
    }
    for (int64_t n = 0; n < batch; ++n) {
      std::stable_sort(order.begin() + offsets[n], order.begin() + offsets[n + 1],
                       [&](int64_t a, int64_t b) { return middle[a] < middle[b]; });
    }
  }
};

}  // namespace fastvision::roi
