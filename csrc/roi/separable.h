// Pooling and its transpose for one roi whose rows and columns have taps of their own, vectorised over channels.
#pragma once

#include "roi/channel_block.h"
#include "roi/taps.h"

namespace fastvision::roi {

constexpr int32_t kRowsAtOnce = 4;

// Vectors of channels of a map; `data` is pixel (0, 0), steps are in elements of S.
template <class S>
struct VectorMap {
  const S* data;
  int64_t row_step, pixel_step, vectors;
};

template <class T>
VectorMap<T> vectors_of(const ChannelBlock<T>& block) {
  return {block.pixel(0, 0)->values(), block.row_step() * kVectorLanes<T>, kVectorLanes<T>, 1};
}

// Pools one roi: A_y F A_x^T. sums_of_rows: [distinct columns, vectors], scratch. emit(bin, vector, sum).
template <class T, int kBytes, class S, class Emit>
[[gnu::always_inline]] inline void pool(RegisterBytes<kBytes> bytes, const VectorMap<S>& map, const AxisTaps<T>& y,
                                        const AxisTaps<T>& x, Vector<T>* sums_of_rows, const Emit& emit) {
  using V = Vector<T, kBytes>;
  V* scratch = as(bytes, sums_of_rows);
  const int64_t columns = int64_t(x.columns.size()), vectors = map.vectors;
  for (int64_t i = 0; i < y.bins(); ++i) {
    const int32_t first = y.offsets[i], last = y.offsets[i + 1];
    // a few rows at a time: each is read front to back, and the sums stay in cache
    for (int32_t t0 = first; t0 < last || t0 == first; t0 += kRowsAtOnce) {
      const int32_t t1 = std::min(last, t0 + kRowsAtOnce);
      for (int64_t c = 0; c < columns; ++c) {
        const S* column = map.data + x.columns[c] * map.pixel_step;
        for (int64_t v = 0; v < vectors; ++v) {
          V sum;
          if (t0 > first) sum = scratch[c * vectors + v];
          for (int32_t t = t0; t < t1; ++t) {
            sum.add(y.weights[t], V::load(column + y.pixels[t] * map.row_step + v * kVectorLanes<T>));
          }
          scratch[c * vectors + v] = sum;
        }
      }
    }
    for (int64_t j = 0; j < x.bins(); ++j) {
      for (int64_t v = 0; v < vectors; ++v) {
        V sum;
        for (int32_t t = x.offsets[j]; t < x.offsets[j + 1]; ++t) {
          sum.add(x.weights[t], scratch[x.slots[t] * vectors + v]);
        }
        emit(i * x.bins() + j, v, sum);
      }
    }
  }
}

// The transpose of pool: adds the gradient [P * Q] of one roi to a block of the map.
template <class T, int kBytes>
[[gnu::always_inline]] inline void unpool(RegisterBytes<kBytes> bytes, const ChannelBlock<T>& map, const AxisTaps<T>& y,
                                          const AxisTaps<T>& x, const Vector<T>* bins, Vector<T>* sums_of_rows) {
  using V = Vector<T, kBytes>;
  const V* grad = as(bytes, bins);
  V* scratch = as(bytes, sums_of_rows);
  const int64_t columns = int64_t(x.columns.size());
  for (int64_t i = 0; i < y.bins(); ++i) {
    std::fill_n(scratch, columns, V{});
    for (int64_t j = 0; j < x.bins(); ++j) {
      for (int32_t t = x.offsets[j]; t < x.offsets[j + 1]; ++t) {
        scratch[x.slots[t]].add(x.weights[t], grad[i * x.bins() + j]);
      }
    }
    for (int32_t t = y.offsets[i]; t < y.offsets[i + 1]; ++t) {
      const T weight = y.weights[t];
      V* row = as(bytes, map.pixel(y.pixels[t], 0));
      for (int64_t c = 0; c < columns; ++c) row[x.columns[c]].add(weight, scratch[c]);
    }
  }
}

}  // namespace fastvision::roi
