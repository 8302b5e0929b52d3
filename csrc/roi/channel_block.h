// A window of a feature map for one vector of channels, transposed to [rows, columns, lanes].
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/layout.h"
#include "common/memory.h"
#include "common/simd.h"
#include "common/transpose.h"

namespace fastvision::roi {

// Inclusive pixel bounds; empty until something is included.
struct Window {
  int64_t top = INT32_MAX, bottom = -1, left = INT32_MAX, right = -1;

  void include(int64_t y0, int64_t y1, int64_t x0, int64_t x1) {
    top = std::min(top, y0), bottom = std::max(bottom, y1);
    left = std::min(left, x0), right = std::max(right, x1);
  }
  void include(const Window& other) { include(other.top, other.bottom, other.left, other.right); }
  int64_t rows() const { return std::max<int64_t>(0, bottom - top + 1); }
  int64_t columns() const { return std::max<int64_t>(0, right - left + 1); }
};

// `count` pixels, `pixel` apart, of `lanes` channels, `channel` apart -> vectors; lanes past `lanes` are left alone.
template <class T, class S>
[[gnu::always_inline]] inline void load_lanes(const S* source, int64_t channel, int64_t pixel, int64_t count,
                                              int64_t lanes, Vector<T>* vectors) {
  if (pixel == 1) return transpose(source, channel, lanes, count, vectors->values(), kVectorLanes<T>);
  for (int64_t x = 0; x < count; ++x) {
    T* values = vectors[x].values();
    for (int64_t l = 0; l < lanes; ++l) values[l] = static_cast<T>(source[x * pixel + l * channel]);
  }
}

// The reverse.
template <class T, class S>
[[gnu::always_inline]] inline void store_lanes(const Vector<T>* vectors, int64_t count, int64_t lanes, S* target,
                                               int64_t channel, int64_t pixel) {
  if (pixel == 1) return transpose(vectors->values(), kVectorLanes<T>, count, lanes, target, channel);
  for (int64_t x = 0; x < count; ++x) {
    if (channel == 1 && lanes == kVectorLanes<T>) {
      vectors[x].store(target + x * pixel);
    } else {
      for (int64_t l = 0; l < lanes; ++l) target[x * pixel + l * channel] = static_cast<S>(vectors[x].values()[l]);
    }
  }
}

// The bins [P, Q] of one roi; source: bin (0, 0) of the first channel.
template <class T, class S>
[[gnu::always_inline]] inline void load_bins(const S* source, const Strides& step, int64_t rows, int64_t columns,
                                             int64_t lanes, Vector<T>* bins) {
  for (int64_t i = 0; i < rows; ++i) {
    load_lanes<T>(source + i * step.h, step.c, step.w, columns, lanes, bins + i * columns);
  }
}

template <class S>
[[gnu::always_inline]] inline void zero_lanes(S* target, int64_t channel, int64_t pixel, int64_t count, int64_t lanes) {
  if (pixel == 1) {
    for (int64_t l = 0; l < lanes; ++l) std::fill_n(target + l * channel, count, S(0));
  } else {
    for (int64_t x = 0; x < count; ++x) {
      for (int64_t l = 0; l < lanes; ++l) target[x * pixel + l * channel] = S(0);
    }
  }
}

template <class T>
class ChannelBlock {
 public:
  static constexpr int64_t kLanes = kVectorLanes<T>;

  void reset(const Window& window) {
    // of an empty window pixel (0, 0) may still be asked for, if not read
    window_ = window.rows() > 0 && window.columns() > 0 ? window : Window{0, -1, 0, -1};
    data_.reserve(std::max<size_t>(1, size_t(window_.rows() * window_.columns())));
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
      load_lanes<T>(source + y * step.h + window_.left * step.w, step.c, step.w, window_.columns(), lanes,
                    pixel(y, window_.left));
    }
  }

  // target: pixel (0, 0) of the first channel of a [height, width] map; zero outside the window.
  template <class S>
  [[gnu::always_inline]] void store(S* target, const Strides& step, int64_t height, int64_t width,
                                    int64_t lanes) const {
    for (int64_t y = 0; y < height; ++y) {
      S* row = target + y * step.h;
      if (y < window_.top || y > window_.bottom) {
        zero_lanes(row, step.c, step.w, width, lanes);
        continue;
      }
      zero_lanes(row, step.c, step.w, window_.left, lanes);
      store_lanes<T>(pixel(y, window_.left), window_.columns(), lanes, row + window_.left * step.w, step.c, step.w);
      zero_lanes(row + (window_.right + 1) * step.w, step.c, step.w, width - window_.right - 1, lanes);
    }
  }

 private:
  Window window_;
  Buffer<Vector<T>> data_;
};

}  // namespace fastvision::roi
