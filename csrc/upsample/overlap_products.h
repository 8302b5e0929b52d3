// Dense transposed convolution whose windows may overlap, on the CPU: a matrix product gives each input pixel its whole
// window [kernel rows, kernel columns, outputs], which is then added where it belongs. With the outputs of a pixel side
// by side a row of a window is one run, so few outputs of many taps fill vectors too; planes are turned row by row on
// the way out, while a row is in the cache.
//
// Threads share bands of output rows. A band is summed up in the cache and stored once; of the input rows that also
// reach its neighbours it takes the kernel rows that are its own, so that nothing is multiplied twice (but for what
// shares a tile with them).
#pragma once

#include <algorithm>

#include "common/copy.h"
#include "common/memory.h"
#include "common/simd.h"
#include "common/stream.h"
#include "common/windows.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {

constexpr int64_t kLeastChannels = 16;  // fewer are multiplied faster than their products are added
constexpr int64_t kMostSums = 1 << 22;  // numbers of a thread's band, which has a row for each of the kernel's

// Numbers of a row of outputs and of what padding cuts off.
inline int64_t line_of(const Params& p) {
  return std::max((p.x.in - 1) * p.x.stride + p.x.kernel, p.x.padding + p.x.out) * p.outputs;
}

inline bool has_overlap_products(const Params& p, const Strides& out) {
  const bool dense = out.w == 1 || (out.c == 1 && out.w == p.outputs), dilated = p.y.dilation > 1 || p.x.dilation > 1;
  return dense && !dilated && p.groups == 1 && p.channels >= kLeastChannels && p.y.kernel * line_of(p) <= kMostSums;
}

template <class T, class S>
class OverlapProducts {
 public:
  OverlapProducts(const Params& p, const S* input, const Strides& in, const S* weight, const S* bias,
                  Activation<T> activation, S* output, const Strides& out)
      : p_(p),
        input_(input),
        in_(in),
        activation_(activation),
        output_(output),
        out_(out),
        tile_(gemm::tile<T>()),
        run_(p.x.kernel * p.outputs),
        window_(p.y.kernel * run_),
        line_(line_of(p)),
        padded_(ceil_div(window_, tile_.columns) * tile_.columns),
        panels_(size_t(padded_ * p.channels)),
        bias_(size_t(p.outputs)) {
    lay_out(weight);
    for (int64_t o = 0; o < p.outputs; ++o) bias_[size_t(o)] = bias ? static_cast<T>(bias[o]) : T(0);
  }

  void run() {
    const int64_t wanted = std::max<int64_t>(kBand / (line_ * int64_t(sizeof(T))), p_.y.kernel);
    const int64_t shared = ceil_div(thread_count(), p_.batch);  // bands of a map that leave no thread without one
    const int64_t bands = ceil_div(ceil_div(p_.y.out, wanted), shared) * shared;
    const int64_t rows = ceil_div(p_.y.out, bands);
    const int64_t each = ceil_div(p_.y.out, rows);
    parallel_for(p_.batch * each, 1, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i % each * rows;
        band(i / each, first, std::min(first + rows, p_.y.out), scratch);
      }
    });
  }

 private:
  struct Scratch {
    Buffer<T> sums, pixels, windows;
  };

  // weight [channels, outputs, taps] -> panels [blocks of a window, channels, columns of a tile], zeros past the last.
  // Lines of the panels lie far apart: a few channels together write a few at each place, and those of large weights,
  // which are read only after all are written, go past the caches.
  void lay_out(const S* weight) {
    constexpr int64_t kGrain = 1 << 14, kTogether = 4;  // numbers that are worth a thread, channels
    const int64_t taps = p_.y.kernel * p_.x.kernel, columns = tile_.columns;
    const int64_t bytes = (p_.channels * window_ + 2 * p_.channels * padded_) * int64_t(sizeof(T));
    const int64_t groups = ceil_div(p_.channels, kTogether);
    parallel_for(groups, ceil_div(kGrain, kTogether * padded_), [&](int64_t begin, int64_t end) {
      const Stream stream(bytes, columns * int64_t(sizeof(T)));
      Buffer<T> windows(size_t(kTogether * padded_));
      vectorized([&]<int kBytes>(RegisterBytes<kBytes>) __attribute__((always_inline)) {
        for (int64_t group = begin; group < end; ++group) {
          const int64_t first = group * kTogether, some = std::min(kTogether, p_.channels - first);
          for (int64_t c = 0; c < some; ++c) {
            T* window = windows.data() + c * padded_;
            transpose(weight + (first + c) * window_, taps, p_.outputs, taps, window, p_.outputs);
            std::fill_n(window + window_, padded_ - window_, T(0));
          }
          for (int64_t block = 0; block * columns < padded_; ++block) {
            const T* source = windows.data() + block * columns;
            T* target = panel(block) + first * columns;
            for (int64_t c = 0; c < some; ++c, source += padded_, target += columns) {
              stream ? stream.copy<kBytes>(source, columns, target) : copy(source, columns, target);
            }
          }
        }
      });
    });
  }

  T* panel(int64_t block) const { return panels_.data() + block * p_.channels * tile_.columns; }

  // Rows [first, last) of the windows that an input row at `y` adds to outputs [begin, end) of an axis.
  struct Rows {
    int64_t first, last;
  };
  Rows rows_within(int64_t y, int64_t begin, int64_t end) const {
    const int64_t start = y * p_.y.stride - p_.y.padding;
    return {std::max<int64_t>(0, begin - start), std::min(p_.y.kernel, end - start)};
  }

  void band(int64_t n, int64_t begin, int64_t end, Scratch& s) const {
    const int64_t top = std::max<int64_t>(0, ceil_div(begin + p_.y.padding - p_.y.kernel + 1, p_.y.stride));
    const int64_t bottom = std::min(p_.y.in, (end - 1 + p_.y.padding) / p_.y.stride + 1);  // past the last
    const int64_t columns = tile_.columns;
    const int64_t together = std::max<int64_t>(1, kWindows / (padded_ * int64_t(sizeof(T)) * tile_.rows)) * tile_.rows;
    s.sums.reserve(size_t((end - begin) * line_));
    s.pixels.reserve(size_t(together * p_.channels));
    s.windows.reserve(size_t(together * padded_));
    for (int64_t i = 0; i < (end - begin) * line_; i += p_.outputs) {
      std::copy_n(bias_.data(), p_.outputs, s.sums.data() + i);
    }
    for (int64_t first = top * p_.x.in; first < bottom * p_.x.in; first += together) {
      const windows::Piece piece{n, first, std::min(first + together, bottom * p_.x.in)};
      // later rows have earlier kernel rows within the band
      const int64_t some = rows_within((piece.end - 1) / p_.x.in, begin, end).first * run_ / columns;
      const int64_t last = ceil_div(rows_within(piece.begin / p_.x.in, begin, end).last * run_, columns);
      vectorized([&]() __attribute__((always_inline)) {
        windows::pack_pixels(p_.channels, p_.x.in, tile_.rows, input_, in_, piece, s.pixels.data());
      });
      for (int64_t block = some; block < last; ++block) {
        for (int64_t k = 0; k < piece.end - piece.begin; k += tile_.rows) {
          gemm::multiply<T>(std::min<int64_t>(tile_.rows, piece.end - piece.begin - k),
                            {s.pixels.data() + k * p_.channels, tile_.rows, panel(block), columns, p_.channels,
                             s.windows.data() + k * padded_ + block * columns, padded_, false});
        }
      }
      vectorized([&]() __attribute__((always_inline)) { add(piece, begin, end, s); });
    }
    vectorized([&]() __attribute__((always_inline)) { store(n, begin, end, s.sums.data()); });
  }

  // windows [pixels of the piece, padded_] += onto the rows of the band
  [[gnu::always_inline]] void add(const windows::Piece& piece, int64_t begin, int64_t end, const Scratch& s) const {
    const T* window = s.windows.data();
    int64_t y = piece.begin / p_.x.in, x = piece.begin % p_.x.in;
    Rows rows = rows_within(y, begin, end);
    for (int64_t k = piece.begin; k < piece.end; ++k, window += padded_) {
      const int64_t corner = y * p_.y.stride - p_.y.padding - begin;
      T* target = s.sums.data() + (corner + rows.first) * line_ + x * p_.x.stride * p_.outputs;
      for (int64_t row = rows.first; row < rows.last; ++row, target += line_)
        add_run(window + row * run_, run_, target);
      if (++x == p_.x.in) x = 0, ++y, rows = rows_within(y, begin, end);
    }
  }

  [[gnu::always_inline]] static void add_run(const T* __restrict from, int64_t count, T* __restrict to) {
    constexpr int64_t kWhole = 32 / int64_t(sizeof(T));
    int64_t i = 0;
    for (; i + kWhole <= count; i += kWhole) {
#pragma GCC unroll 8
      for (int64_t l = 0; l < kWhole; ++l) to[i + l] += from[i + l];
    }
    for (; i < count; ++i) to[i] += from[i];
  }

  // sums [rows of the band, line_] -> the output
  [[gnu::always_inline]] void store(int64_t n, int64_t begin, int64_t end, T* sums) const {
    const Activation<T> activate = activation_;
    const int64_t count = p_.x.out * p_.outputs;
    for (int64_t oy = begin; oy < end; ++oy) {
      T* __restrict source = sums + (oy - begin) * line_ + p_.x.padding * p_.outputs;
      S* __restrict target = output_ + n * out_.n + oy * out_.h;
      if (out_.w == p_.outputs) {
        for (int64_t i = 0; i < count; ++i) target[i] = static_cast<S>(activate(source[i]));
      } else {
        if (activate.slope != 1) std::transform(source, source + count, source, activate);
        transpose(source, p_.outputs, p_.x.out, p_.outputs, target, out_.c);
      }
    }
  }

  static constexpr int64_t kBand = 256 << 10, kWindows = 32 << 10;  // bytes, in the L2 and L1 caches if they can be

  const Params p_;
  const S* input_;
  const Strides in_;
  const Activation<T> activation_;
  S* output_;
  const Strides out_;
  const gemm::Tile tile_;
  const int64_t run_, window_, line_;  // numbers of a row of a window, a window, a row of outputs and what is cut off
  const int64_t padded_;               // a window in whole tiles
  const Buffer<T> panels_, bias_;
};

}  // namespace fastvision::conv_transpose2d
