// A window of a feature map for one vector of channels, transposed to [rows, columns, lanes].
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/buffer.h"
#include "common/layout.h"
#include "common/simd.h"

namespace fastvision::roi {

// Inclusive pixel bounds; empty until something is included.
struct Window {
  int64_t top = INT32_MAX, bottom = -1, left = INT32_MAX, right = -1;

  void include(int64_t y0, int64_t y1, int64_t x0, int64_t x1) {
    top = std::min(top, y0), bottom = std::max(bottom, y1);
    left = std::min(left, x0), right = std::max(right, x1);
  }
  int64_t rows() const { return std::max<int64_t>(0, bottom - top + 1); }
  int64_t columns() const { return std::max<int64_t>(0, right - left + 1); }
};

template <class T>
class ChannelBlock {
 public:
  static constexpr int64_t kLanes = kVectorLanes<T>;

  void reset(const Window& window) {
    window_ = window;
    data_.reserve(size_t(window.rows() * window.columns()));
  }

  // Pixel (y, x) of the whole map; only pixels of the window may be touched.
  Vector<T>* pixel(int64_t y, int64_t x) const {
    return data_.data() + ((y - window_.top) * window_.columns() + (x - window_.left));
  }
  int64_t row_step() const { return window_.columns(); }

  [[gnu::always_inline]] void clear() { std::fill_n(data_.data(), window_.rows() * window_.columns(), Vector<T>{}); }

  // source: pixel (0, 0) of the first channel. Lanes past `lanes` are zero.
  template <class S>
  [[gnu::always_inline]] void load(const S* source, const Strides& step, int64_t lanes) {
    if (lanes < kLanes) clear();
    for (int64_t y = window_.top; y <= window_.bottom; ++y) {
      T* row = pixel(y, window_.left)->values();
      const S* from = source + y * step.h + window_.left * step.w;
      for (int64_t l = 0; l < lanes; ++l) {
        const S* plane = from + l * step.c;
        for (int64_t x = 0; x < window_.columns(); ++x) row[x * kLanes + l] = static_cast<T>(plane[x * step.w]);
      }
    }
  }

  // target: pixel (0, 0) of the first channel of a [height, width] map; zero outside the window.
  template <class S>
  [[gnu::always_inline]] void store(S* target, const Strides& step, int64_t height, int64_t width,
                                    int64_t lanes) const {
    for (int64_t y = 0; y < height; ++y) {
      const bool inside = y >= window_.top && y <= window_.bottom;
      const int64_t left = inside ? window_.left : width, right = inside ? window_.right + 1 : width;
      const T* row = inside ? pixel(y, 0)->values() : nullptr;
      for (int64_t l = 0; l < lanes; ++l) {
        S* plane = target + y * step.h + l * step.c;
        for (int64_t x = 0; x < left; ++x) plane[x * step.w] = S(0);
        for (int64_t x = left; x < right; ++x) plane[x * step.w] = static_cast<S>(row[x * kLanes + l]);
        for (int64_t x = right; x < width; ++x) plane[x * step.w] = S(0);
      }
    }
  }

 private:
  Window window_;
  Buffer<Vector<T>> data_;
};

// pooled [bins] vectors -> bin b, channel l at target[b * bin + l * channel]
template <class T, class S>
[[gnu::always_inline]] inline void store_bins(const Vector<T>* pooled, int64_t bins, int64_t lanes, S* target,
                                              int64_t channel, int64_t bin) {
  const T* values = pooled->values();
  for (int64_t l = 0; l < lanes; ++l) {
    for (int64_t b = 0; b < bins; ++b) {
      target[b * bin + l * channel] = static_cast<S>(values[b * kVectorLanes<T> + l]);
    }
  }
}

// The reverse, from a source of any strides; lanes past `lanes` are zero.
template <class T, class S>
[[gnu::always_inline]] inline void load_bins(const S* source, const Strides& step, int64_t rows, int64_t columns,
                                             int64_t lanes, Vector<T>* pooled) {
  T* values = pooled->values();
  if (lanes < kVectorLanes<T>) std::fill_n(pooled, rows * columns, Vector<T>{});
  for (int64_t l = 0; l < lanes; ++l) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        values[(i * columns + j) * kVectorLanes<T> + l] =
            static_cast<T>(source[l * step.c + i * step.h + j * step.w]);
      }
    }
  }
}

}  // namespace fastvision::roi
