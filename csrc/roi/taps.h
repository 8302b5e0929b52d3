// The sparse rows of A_y and A_x (common/bilinear.h) of one roi, as the CPU kernels walk them.
#pragma once

#include <vector>

#include "common/bilinear.h"

namespace fastvision::roi {

// Taps of all bins along one axis: bin b owns [offsets[b], offsets[b + 1]).
template <class T>
struct AxisTaps {
  std::vector<int32_t> offsets, pixels, slots;  // slots: position of the pixel in `columns`
  std::vector<T> weights;
  std::vector<int32_t> columns;        // the distinct pixels, in order of first use
  int32_t low = INT32_MAX, high = -1;  // smallest and largest pixel

  void build(const SampledAxis<T>& axis, int64_t bins) {
    build(bins, [&](int64_t b, const auto& emit) { for_each_tap(axis, b, emit); });
  }

  // taps_of(bin, emit) calls emit(pixel, weight)
  template <class TapsOf>
  void build(int64_t bins, const TapsOf& taps_of) {
    offsets.assign(1, 0), pixels.clear(), slots.clear(), weights.clear(), columns.clear();
    low = INT32_MAX, high = -1;
    for (int64_t b = 0; b < bins; ++b) {
      taps_of(b, [&](int64_t pixel, T weight) {
        pixels.push_back(int32_t(pixel)), weights.push_back(weight);
        slots.push_back(slot_of(int32_t(pixel)));
        low = std::min(low, int32_t(pixel)), high = std::max(high, int32_t(pixel));
      });
      offsets.push_back(int32_t(pixels.size()));
    }
  }

  int64_t bins() const { return int64_t(offsets.size()) - 1; }
  bool empty() const { return pixels.empty(); }

 private:
  // Pixels ascend within a roi of positive size, so a repeated one is among the last two.
  int32_t slot_of(int32_t pixel) {
    const int32_t count = int32_t(columns.size());
    for (int32_t slot = count - 1; slot >= 0 && slot >= count - 2; --slot) {
      if (columns[slot] == pixel) return slot;
    }
    columns.push_back(pixel);
    return count;
  }
};

template <class T>
struct RoiTaps {
  AxisTaps<T> y, x;
  bool empty() const { return y.empty() || x.empty(); }
};

}  // namespace fastvision::roi
