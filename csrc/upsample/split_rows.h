// Rows of a plane split by phase, each once, so that what neighbouring inputs read of them lies side by side.
#pragma once

#include <algorithm>
#include <vector>

#include "common/memory.h"
#include "upsample/depthwise.h"

namespace fastvision::conv_transpose2d {

// Rows of a plane of the output's gradient [y.out, x.out] as [stride, step]: at(y)[phase * step + u] is column
// u * stride + phase - padding of row y, zero outside. As many rows are kept as one row of inputs reads.
template <class T, class S>
class SplitRows {
 public:
  explicit SplitRows(const Params& p)
      : x_(p.x),
        count_((p.y.kernel - 1) * p.y.dilation + 1),
        step_(whole_vectors<T>(p.x.in) + p.x.most_shift()),
        kept_(size_t(count_), -1),
        rows_(size_t(count_ * p.x.stride * step_)) {}

  int64_t step() const { return step_; }

  [[gnu::always_inline]] void start(const S* plane) {
    plane_ = plane;
    for (int64_t& y : kept_) y = -1;
  }

  [[gnu::always_inline]] const T* at(int64_t y) {
    const int64_t place = y % count_;
    T* rows = rows_.data() + place * x_.stride * step_;
    if (kept_[size_t(place)] == y) return rows;
    kept_[size_t(place)] = y;
    const S* source = plane_ + y * x_.out;
    const int64_t length = x_.in + x_.most_shift();
    for (int64_t phase = 0; phase < x_.stride; ++phase) {
      const int64_t before = x_.padding - phase;  // the row begins at u * stride = before
      const int64_t begin = before <= 0 ? 0 : std::min(length, ceil_div(before, x_.stride));
      const int64_t end = std::clamp((x_.out - 1 + before + x_.stride) / x_.stride, begin, length);
      T* __restrict to = rows + phase * step_;
      for (int64_t u = 0; u < begin; ++u) to[u] = T(0);
      if (x_.stride == 1) {
        for (int64_t u = begin; u < end; ++u) to[u] = static_cast<T>(source[u - before]);
      } else if (x_.stride == 2) {
        for (int64_t u = begin; u < end; ++u) to[u] = static_cast<T>(source[2 * u - before]);
      } else {
        for (int64_t u = begin; u < end; ++u) to[u] = static_cast<T>(source[u * x_.stride - before]);
      }
      for (int64_t u = end; u < length; ++u) to[u] = T(0);
    }
    return rows;
  }

 private:
  const Axis x_;
  const int64_t count_, step_;
  std::vector<int64_t> kept_;
  Buffer<T> rows_;
  const S* plane_ = nullptr;
};

}  // namespace fastvision::conv_transpose2d
