// Maps between planes and channels_last, on the CPU.
#pragma once

#include <algorithm>

#include "common/dispatch.h"
#include "common/host_device.h"
#include "common/layout.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "common/transpose.h"

namespace fastvision {

// `count` matrices [rows, columns], each turned, in squares whose rows on both sides stay in the first cache.
template <class S>
void turn(const S* from, int64_t count, int64_t rows, int64_t columns, S* to) {
  constexpr int64_t kTogether = 64, kGrain = 1 << 14;
  const int64_t down = ceil_div(rows, kTogether), across = ceil_div(columns, kTogether);
  const int64_t square = std::max(int64_t(1), std::min(kTogether, rows) * std::min(kTogether, columns));
  parallel_for(count * down * across, ceil_div(kGrain, square), [&](int64_t begin, int64_t end) {
    vectorized([&]() __attribute__((always_inline)) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / across % down * kTogether, column = i % across * kTogether;
        const int64_t matrix = i / across / down * rows * columns;
        transpose(from + matrix + row * columns + column, columns, std::min(kTogether, rows - row),
                  std::min(kTogether, columns - column), to + matrix + column * rows + row, rows);
      }
    });
  });
}

// A dense map in the other layout.
inline Tensor turned(const Tensor& t) {
  const bool last = is_channels_last(t);
  Tensor result = empty_map(t, t.size(0), t.size(1), t.size(2), t.size(3), !last);
  const int64_t channels = t.size(1), pixels = t.size(2) * t.size(3);
  const void* from = t.const_data_ptr();
  void* to = result.mutable_data_ptr();
  dispatch_words(t, [&](auto word) {
    using W = typename decltype(word)::type;
    turn(static_cast<const W*>(from), t.size(0), last ? pixels : channels, last ? channels : pixels,
         static_cast<W*>(to));
  });
  return result;
}

inline Tensor in_layout(const Tensor& t, bool channels_last) {
  return is_channels_last(t) == channels_last ? t : turned(t);
}

}  // namespace fastvision
