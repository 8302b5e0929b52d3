// Rois by the map they read, for kernels that work on one map at a time.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "roi/rois.h"

namespace fastvision::roi {

// Rois of map m are order[offsets[m] .. offsets[m + 1]), from its top to its bottom, so that consecutive rois meet the
// same rows in cache; those that read no map follow the last. The order depends on the rois alone, never on the
// threads.
struct RoiGroups {
  std::vector<int64_t> order, offsets;

  // map_of(k): the map of roi k, or -1; height_of(k): ascends from the top of a map to its bottom
  template <class MapOf, class HeightOf>
  RoiGroups(int64_t maps, int64_t count, const MapOf& map_of, const HeightOf& height_of)
      : order(count), offsets(maps + 2, 0) {
    std::vector<int64_t> map(count);
    std::vector<double> height(count);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t m = map_of(k);
      map[k] = m < 0 ? maps : m;
      ++offsets[map[k] + 1];
      const double h = height_of(k);
      height[k] = h == h ? h : 0;
    }
    for (int64_t m = 0; m <= maps; ++m) offsets[m + 1] += offsets[m];
    std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
    for (int64_t k = 0; k < count; ++k) order[next[map[k]]++] = k;
    for (int64_t m = 0; m < maps; ++m) {
      std::stable_sort(order.begin() + offsets[m], order.begin() + offsets[m + 1],
                       [&](int64_t a, int64_t b) { return height[a] < height[b]; });
    }
  }

  // The map of the roi at position r of `order`.
  int64_t map_at(int64_t r) const { return std::upper_bound(offsets.begin(), offsets.end(), r) - offsets.begin() - 1; }

  // [begin, end) in `order` of one of `parts` parts of the rois of map m
  std::pair<int64_t, int64_t> range(int64_t m, int64_t part = 0, int64_t parts = 1) const {
    const int64_t begin = offsets[m], count = offsets[m + 1] - begin;
    return {begin + count * part / parts, begin + count * (part + 1) / parts};
  }
};

// The image of roi k, which must exist.
template <class T>
int64_t checked_image(const char* op, int64_t batch, const T* roi, int64_t k) {
  const int64_t image = image_of(batch, roi);
  if (image < 0) {
    fail<std::out_of_range>(op, "expected rois[", k, ", 0], the image of the roi, in [0, ", batch, "), got ", roi[0]);
  }
  return image;
}

// Rois [count, 5] by image.
template <class T>
RoiGroups groups_by_image(const char* op, int64_t batch, const T* rois, int64_t count) {
  return RoiGroups(
      batch, count, [&](int64_t k) { return checked_image(op, batch, rois + 5 * k, k); },
      [&](int64_t k) { return double(rois[5 * k + 2]) + double(rois[5 * k + 4]); });
}

}  // namespace fastvision::roi
