// What the gradients of a transposed convolution read, on the CPU: the patch of the output's gradient that the kernel
// of each input position fell on, a row of a matrix [positions, taps] that is never made whole (im2col, Chellapilla et
// al. 2006, "High performance convolutional neural networks for document processing", section 3):
//
//   input gradient  [c][q] = sum_t weight[c][t] patch[q][t]
//   weight gradient [c][t] = sum_q input[c][q] patch[q][t]
//
// q runs over the input positions of all images, t over the taps of all outputs of a group: (output, y, x), as weights
// lie, of planes, and (y, x, output) of channels_last, whose outputs lie side by side.
#pragma once

#include <algorithm>
#include <vector>

#include "common/copy.h"
#include "common/gemm.h"
#include "common/host_device.h"
#include "common/memory.h"
#include "common/transpose.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {

template <class T, class S>
class Patches {
 public:
  static constexpr int64_t kMostPositions = 256;  // that are asked for at once

  Patches(const Params& p, const S* grad, const Strides& step)
      : p_(p),
        grad_(grad),
        end_(grad + p.batch * p.outputs * p.y.out * p.x.out),
        step_(step),
        last_(step.c == 1 && step.w != 1),
        columns_(gemm::tile<T>().columns) {
    const int64_t outputs = p.group_outputs();
    // of one row of the kernel, where its taps lie side by side
    const bool rows = p.x.dilation == 1 && step.w == (last_ ? outputs : 1);
    pixels_ = rows ? p.x.kernel : 1, width_ = last_ ? outputs : 1;
    along_taps_ = last_ || (rows && p.x.kernel >= kLongRow);
    inside_.reserve(size_t(p.x.kernel));
    for (int64_t k = 0; k < p.x.kernel; ++k) inside_.push_back(inside(p.x, k));
  }

  int64_t taps() const { return p_.group_outputs() * p_.y.kernel * p_.x.kernel; }

  // Weights of `count` channels, [outputs, y, x] each -> [taps][rows]
  [[gnu::always_inline]] void turn_weights(const S* weight, int64_t count, T* out, int64_t rows) const {
    const int64_t area = p_.y.kernel * p_.x.kernel, outputs = p_.group_outputs();
    if (!last_) return transpose(weight, taps(), count, taps(), out, rows);
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t k = 0; k < area; ++k) {
          out[(k * outputs + o) * rows + c] = static_cast<T>(weight[(c * outputs + o) * area + k]);
        }
      }
    }
  }

  // taps of one channel -> [outputs, y, x]
  [[gnu::always_inline]] void return_weights(const T* by_tap, S* weight) const {
    if (!last_) return copy(by_tap, taps(), weight);
    const int64_t area = p_.y.kernel * p_.x.kernel, outputs = p_.group_outputs();
    transpose(by_tap, outputs, area, outputs, weight, area);
  }

  // Numbers of scratch memory for as many positions or taps as are asked for at once.
  int64_t scratch(int64_t count) const { return columns_ * count; }

  // Panels of a tile's columns, [panels][taps][columns]: patches of `count` positions, their taps [begin, end).
  [[gnu::always_inline]] void of_positions(int64_t group, int64_t first, int64_t count, int64_t begin, int64_t end,
                                           T* out, T* scratch) const {
    const int64_t taps = end - begin;
    if (!along_taps_) return by_taps(group, first, count, begin, end, out, columns_, taps * columns_);
    for (int64_t q = 0; q < count; q += columns_, out += taps * columns_) {
      const int64_t some = std::min(columns_, count - q);
      by_positions(group, first + q, first + q + some, begin, end, scratch, taps);
      transpose(scratch, taps, some, taps, out, columns_);
    }
  }

  // out[q - first][t - begin] = patch[q][t] of positions [first, last) and `count` taps, at most a tile's columns
  [[gnu::always_inline]] void of_taps(int64_t group, int64_t first, int64_t last, int64_t begin, int64_t count, T* out,
                                      T* scratch) const {
    if (along_taps_) return by_positions(group, first, last, begin, begin + count, out, columns_);
    const int64_t positions = last - first;
    by_taps(group, first, positions, begin, begin + count, scratch, positions, 0);
    transpose(scratch, positions, count, positions, out, columns_);
  }

 private:
  static constexpr int64_t kLongRow = 8;  // of taps; shorter ones are read tap by tap, along the positions

  struct Range {
    int64_t begin, end;
  };

  // Input positions whose tap k fell inside the output.
  static Range inside(const Axis& a, int64_t k) {
    const int64_t offset = k * a.dilation - a.padding;
    const int64_t begin = offset >= 0 ? 0 : std::min(a.in, ceil_div(-offset, a.stride));
    return {begin, std::max(begin, offset >= a.out ? 0 : std::min(a.in, (a.out - 1 - offset) / a.stride + 1))};
  }

  // Positions of one row of an image, from the `at`-th of those asked for on.
  struct Segment {
    int64_t at, n, row, column, length;
  };

  // out[l / width * panel + (t - begin) * width + l % width] = patch[first + l][t] of `count` positions. Tap by tap:
  // what it reads of one output lies in one place.
  [[gnu::always_inline]] void by_taps(int64_t group, int64_t first, int64_t count, int64_t begin, int64_t end, T* out,
                                      int64_t width, int64_t panel) const {
    const Axis &y = p_.y, &x = p_.x;
    const int64_t stride = x.stride * step_.w;
    Segment segments[kMostPositions];
    int64_t found = 0;
    for (int64_t at = 0; at < count;) {
      const int64_t q = first + at, column = q % x.in;
      const int64_t length = std::min({x.in - column, count - at, width - at % width});
      segments[found++] = {at, q / x.in / y.in, q / x.in % y.in, column, length};
      at += length;
    }
    int64_t i = begin / x.kernel % y.kernel, j = begin % x.kernel, o = begin / x.kernel / y.kernel;
    for (int64_t t = begin; t < end; ++t) {
      const S* plane = grad_ + (group * p_.group_outputs() + o) * step_.c + (j * x.dilation - x.padding) * step_.w;
      for (int64_t s = 0; s < found; ++s) {
        const Segment& segment = segments[s];
        const int64_t line = segment.row * y.stride + i * y.dilation - y.padding;
        const Range inside = line >= 0 && line < y.out ? inside_[size_t(j)] : Range{0, 0};
        const int64_t from = std::clamp(inside.begin - segment.column, int64_t(0), segment.length);
        const int64_t till = std::clamp(inside.end - segment.column, from, segment.length);
        const int64_t lane = segment.at % width;
        T* to = out + segment.at / width * panel + (t - begin) * width + lane;
        spread(plane + segment.n * step_.n + line * step_.h + segment.column * stride, stride, from, till,
               segment.length, width - lane, to);
      }
      if (++j == x.kernel) {
        j = 0;
        if (++i == y.kernel) i = 0, ++o;
      }
    }
  }

  // to[l] = source[l * stride] from `from` till `till`, and zero elsewhere. `room`: numbers that `to` has place for.
  [[gnu::always_inline]] void spread(const S* source, int64_t stride, int64_t from, int64_t till, int64_t count,
                                     int64_t room, T* __restrict to) const {
    // in vectors, whose rest is overwritten by the positions that follow, or is that of none
    const int64_t whole = ceil_div(count, kSome) * kSome;
    if (from == 0 && till == count && whole <= room && source + whole * stride <= end_) {
      for (int64_t l = 0; l < whole; l += kSome) {
        if (stride == 1) {
          for (int64_t i = 0; i < kSome; ++i) to[l + i] = static_cast<T>(source[l + i]);
        } else if (stride == 2) {
          for (int64_t i = 0; i < kSome; ++i) to[l + i] = static_cast<T>(source[2 * (l + i)]);
        } else {
          for (int64_t i = 0; i < kSome; ++i) to[l + i] = static_cast<T>(source[(l + i) * stride]);
        }
      }
      return;
    }
    for (int64_t l = 0; l < from; ++l) to[l] = T(0);
    if (stride == 2) {
      for (int64_t l = from; l < till; ++l) to[l] = static_cast<T>(source[2 * l]);
    } else {
      for (int64_t l = from; l < till; ++l) to[l] = static_cast<T>(source[l * stride]);
    }
    for (int64_t l = till; l < count; ++l) to[l] = T(0);
  }

  // out[(q - first) * step + t - begin] = patch[q][t], in runs of taps that lie side by side
  [[gnu::always_inline]] void by_positions(int64_t group, int64_t first, int64_t last, int64_t begin, int64_t end,
                                           T* out, int64_t step) const {
    const Axis &y = p_.y, &x = p_.x;
    const int64_t length = pixels_ * width_, runs = x.kernel / pixels_;  // of a row of the kernel
    for (int64_t t = begin; t < end;) {
      const int64_t run = t / length, skipped = t % length, some = std::min(length - skipped, end - t);
      const int64_t j = run % runs * pixels_ * x.dilation, i = run / runs % y.kernel * y.dilation;
      const int64_t o = group * p_.group_outputs() + run / runs / y.kernel;
      T* to = out + t - begin;
      int64_t column = first % x.in, row = first / x.in % y.in, n = first / x.in / y.in;
      for (int64_t q = first; q < last; ++q, to += step) {
        const int64_t line = row * y.stride + i - y.padding, pixel = column * x.stride + j - x.padding;
        // of the run: values before and from which on pixels lie outside
        const bool exists = line >= 0 && line < y.out;
        const int64_t from = exists ? std::clamp(-pixel * width_ - skipped, int64_t(0), some) : some;
        const int64_t till = exists ? std::clamp((x.out - pixel) * width_ - skipped, from, some) : some;
        const S* source = grad_ + n * step_.n + o * step_.c + line * step_.h + pixel * step_.w + skipped;
        if (from == 0 && till == some && some == kRun) {
#pragma GCC unroll 32
          for (int64_t l = 0; l < kRun; ++l) to[l] = static_cast<T>(source[l]);
        } else {
          for (int64_t l = 0; l < from; ++l) to[l] = T(0);
          copy(source + from, till - from, to + from);
          for (int64_t l = till; l < some; ++l) to[l] = T(0);
        }
        if (++column == x.in) {
          column = 0;
          if (++row == y.in) row = 0, ++n;
        }
      }
      t += some;
    }
  }

  static constexpr int64_t kSome = 32 / int64_t(sizeof(T));
  static constexpr int64_t kRun = gemm::kMostColumns<T>;

  const Params& p_;
  const S* const grad_;
  const S* const end_;
  const Strides step_;
  const bool last_;
  const int64_t columns_;
  int64_t pixels_, width_;  // of a run of taps that lie side by side, and values of a pixel
  bool along_taps_;
  std::vector<Range> inside_;  // of each column of the kernel
};

}  // namespace fastvision::conv_transpose2d
