// Maps as [pixels, channels], the channels padded to whole vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/layout.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "common/transpose.h"

namespace fastvision::roi {

template <class T>
constexpr int64_t padded(int64_t channels) {
  return (channels + kVectorLanes<T> - 1) / kVectorLanes<T> * kVectorLanes<T>;
}

// A plane of [rows, columns] pixels of `channels` -> pixels that are `pixel` values apart; the padding is zero.
template <class S, class Out>
[[gnu::always_inline]] inline void load_interleaved(const S* source, const Strides& step, int64_t rows, int64_t columns,
                                                    int64_t channels, Out* target, int64_t pixel) {
  for (int64_t y = 0; y < rows; ++y, target += columns * pixel) {
    const S* row = source + y * step.h;
    if (step.w == 1) {
      transpose(row, step.c, channels, columns, target, pixel);
    } else if (step.c == 1) {
      for (int64_t x = 0; x < columns; ++x) {
        for (int64_t c = 0; c < channels; ++c) target[x * pixel + c] = static_cast<Out>(row[x * step.w + c]);
      }
    } else {
      for (int64_t x = 0; x < columns; ++x) {
        for (int64_t c = 0; c < channels; ++c) target[x * pixel + c] = static_cast<Out>(row[x * step.w + c * step.c]);
      }
    }
    for (int64_t x = 0; x < columns && channels < pixel; ++x) {
      std::fill(target + x * pixel + channels, target + (x + 1) * pixel, Out(0));
    }
  }
}

// The reverse, for `pixels` equally spaced pixels.
template <class T, class S>
[[gnu::always_inline]] inline void store_interleaved(const T* source, int64_t pixel, int64_t pixels, int64_t channels,
                                                     S* target, const Strides& step) {
  if (step.w == 1) return transpose(source, pixel, pixels, channels, target, step.c);
  if (step.c == 1) {  // a loop of its own, which vectorises
    for (int64_t x = 0; x < pixels; ++x) {
      for (int64_t c = 0; c < channels; ++c) target[x * step.w + c] = static_cast<S>(source[x * pixel + c]);
    }
    return;
  }
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t c = 0; c < channels; ++c) target[x * step.w + c * step.c] = static_cast<S>(source[x * pixel + c]);
  }
}

// A map to read: itself if it is interleaved in whole vectors, else a copy.
template <class T, class S>
class InterleavedMap {
 public:
  explicit InterleavedMap(const Tensor& map)
      : pixels_(map.size(2) * map.size(3)), channels_(padded<T>(map.size(1))), data_(map.const_data_ptr<S>()) {
    if (is_channels_last(map) && channels_ == map.size(1)) return;
    const int64_t height = map.size(2), width = map.size(3);
    copy_.reserve(size_t(map.size(0) * pixels_ * channels_));
    const Strides step = strides_of(map);
    parallel_for(map.size(0) * height, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        vectorized([&]() __attribute__((always_inline)) {
          load_interleaved(data_ + row / height * step.n + row % height * step.h, step, 1, width, map.size(1),
                           copy_.data() + row * width * channels_, channels_);
        });
      }
    });
    data_ = copy_.data();
  }

  const S* image(int64_t n) const { return data_ + n * pixels_ * channels_; }
  int64_t channels() const { return channels_; }
  int64_t vectors() const { return channels_ / kVectorLanes<T>; }

 private:
  int64_t pixels_, channels_;
  const S* data_;
  Buffer<S> copy_;
};

// A map to add to, zero at first: itself if it is interleaved in whole vectors of T, else a copy that finish() writes.
template <class T, class S>
class InterleavedSums {
 public:
  explicit InterleavedSums(Tensor& map)
      : map_(map), pixels_(map.size(2) * map.size(3)), channels_(padded<T>(map.size(1))) {
    const size_t count = size_t(map.size(0) * pixels_ * channels_);
    if (std::is_same_v<S, T> && is_channels_last(map) && channels_ == map.size(1)) {
      data_ = static_cast<T*>(map.mutable_data_ptr());
    } else {
      copy_.reserve(count);
      data_ = copy_.data();
    }
    parallel_for(int64_t(count), 1 << 16,
                 [&](int64_t begin, int64_t end) { std::fill(data_ + begin, data_ + end, T(0)); });
  }

  T* image(int64_t n) const { return data_ + n * pixels_ * channels_; }
  int64_t channels() const { return channels_; }
  int64_t vectors() const { return channels_ / kVectorLanes<T>; }

  void finish() {
    if (!copy_.data()) return;
    const int64_t height = map_.size(2), width = map_.size(3), channels = map_.size(1);
    const Strides step = strides_of(map_);
    S* out = map_.template mutable_data_ptr<S>();
    parallel_for(map_.size(0) * height, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        vectorized([&]() __attribute__((always_inline)) {
          store_interleaved<T>(data_ + row * width * channels_, channels_, width, channels,
                               out + row / height * step.n + row % height * step.h, step);
        });
      }
    });
  }

 private:
  Tensor& map_;
  int64_t pixels_, channels_;
  T* data_;
  Buffer<T> copy_;
};

}  // namespace fastvision::roi
