// A mask resampled on the host: first each of its lines along one axis, then lines of pixels along the other.
#pragma once

#include <vector>

#include "common/simd.h"
#include "masks/paste_masks.h"

namespace fastvision::paste_masks {

// `across`: the axis whose pixels make up a line; `down`: the axis lines are counted along. transposed: lines are
// columns of the mask [M, M'].
template <class T>
class Resampled {
 public:
  Resampled(const T* mask, const Axis<T>& across, const Axis<T>& down, bool transposed)
      : down_(down), width_(std::max<int64_t>(0, across.end - across.begin)), lines_(down.size * width_) {
    const int64_t step = transposed ? down.size : 1, line_step = transposed ? 1 : across.size;
    for (int64_t p = 0; p < width_; ++p) {
      const Tap<T> tap = across.tap(across.begin + p);
      const T *a = mask + tap.index[0] * step, *b = mask + tap.index[1] * step;
      for (int64_t j = 0; j < down.size; ++j) {
        lines_[j * width_ + p] = a[j * line_step] * tap.weight[0] + b[j * line_step] * tap.weight[1];
      }
    }
  }

  int64_t width() const { return width_; }

  // put(p, value) for every pixel of a line, side by side
  template <class Put>
  [[gnu::always_inline]] void line(int64_t pixel, const Put& put) const {
    const Tap<T> tap = down_.tap(pixel);
    const T *a = lines_.data() + tap.index[0] * width_, *b = lines_.data() + tap.index[1] * width_;
    const T wa = tap.weight[0], wb = tap.weight[1];
    const int64_t width = width_;
    for (int64_t p = 0; p < width; ++p) put(p, wa * a[p] + wb * b[p]);
  }

 private:
  Axis<T> down_;
  int64_t width_;
  std::vector<T> lines_;  // [down.size, width]
};

}  // namespace fastvision::paste_masks
