// A mask resampled on the host: first each of its lines along one axis, then lines of pixels along the other.
#pragma once

#include <algorithm>
#include <vector>

#include "common/transpose.h"
#include "masks/paste_masks.h"

namespace fastvision::paste_masks {

// `across`: the axis whose pixels make up a line; `down`: the axis lines are counted along. transposed: lines are
// columns of the mask [M, M'].
template <class T>
class Resampled {
 public:
  // always inlined, so that it is compiled for the processor `vectorized` finds
  [[gnu::always_inline]] Resampled(const T* mask, const Axis<T>& across, const Axis<T>& down, bool transposed)
      : down_(down), width_(std::max<int64_t>(0, across.end - across.begin)), lines_(down.size * width_) {
    const int64_t size = down.size;
    // A pixel takes from all lines alike: with the lines innermost that is a vector, turned back a block at a time.
    std::vector<T> turned(transposed ? 0 : across.size * size), block(kBlock * size);
    if (!transposed) transpose(mask, across.size, size, across.size, turned.data(), size);
    const T* source = transposed ? mask : turned.data();
    for (int64_t first = 0; first < width_; first += kBlock) {
      const int64_t some = std::min(kBlock, width_ - first);
      for (int64_t l = 0; l < some; ++l) {
        const Tap<T> tap = across.tap(across.begin + first + l);
        const T *a = source + tap.index[0] * size, *b = source + tap.index[1] * size;
        const T wa = tap.weight[0], wb = tap.weight[1];
        T* pixel = block.data() + l * size;
#pragma GCC ivdep
        for (int64_t j = 0; j < size; ++j) pixel[j] = a[j] * wa + b[j] * wb;
      }
      transpose(block.data(), size, some, size, lines_.data() + first, width_);
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
  static constexpr int64_t kBlock = 16;

  Axis<T> down_;
  int64_t width_;
  std::vector<T> lines_;  // [down.size, width]
};

}  // namespace fastvision::paste_masks
