// What the products of the sub-pixel phases are made of: the input, laid out once, and the weights of each phase.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "common/gemm.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/transpose.h"
#include "upsample/depthwise.h"

namespace fastvision::conv_transpose2d {

// [channels, batch * rows * columns + slack]: `margin` rows above and columns to the left of each image are zeros, and
// so are those up to the last position that an output reads.
template <class T>
struct Staged {
  int64_t margin_y, margin_x, rows, columns, step;
  Buffer<T> data;

  template <class S>
  Staged(const Params& p, const S* input, const Strides& s)
      : margin_y(p.y.most_shift()),
        margin_x(p.x.most_shift()),
        rows(std::max(p.y.in, p.y.positions()) + margin_y),
        columns(std::max(p.x.in, p.x.positions()) + margin_x),
        step(p.batch * rows * columns + kMostTile),
        data(size_t(p.channels * step)) {
    constexpr int64_t kChannels = 16;
    parallel_for(ceil_div(p.channels, kChannels), 1, [&](int64_t begin, int64_t end) {
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t c = begin * kChannels; c < std::min(p.channels, end * kChannels); c += kChannels) {
          const int64_t some = std::min(kChannels, p.channels - c);
          const bool whole = rows == p.y.in && columns == p.x.in;
          for (int64_t i = 0; i < some; ++i) {
            T* plane = data.data() + (c + i) * step;
            if (!whole) std::fill_n(plane, step, T(0));
            std::fill_n(plane + p.batch * rows * columns, kMostTile, T(0));
          }
          for (int64_t n = 0; n < p.batch; ++n) {
            for (int64_t y = 0; y < p.y.in; ++y) {
              const S* source = input + n * s.n + c * s.c + y * s.h;
              T* target = data.data() + c * step + ((n * rows + y + margin_y) * columns + margin_x);
              if (s.c == 1 && s.w != 1) {
                transpose(source, s.w, p.x.in, some, target, step);
              } else {
                for (int64_t i = 0; i < some; ++i) {
                  for (int64_t x = 0; x < p.x.in; ++x) target[i * step + x] = static_cast<T>(source[i * s.c + x * s.w]);
                }
              }
            }
          }
        }
      });
    });
  }

  // Position (q, 0) of an image, as taps with no shift read it.
  int64_t at(int64_t n, int64_t q) const { return (n * rows + q + margin_y) * columns + margin_x; }

  static constexpr int64_t kMostTile = gemm::kMostColumns<T>;
};

// Weights of one phase: panels [taps, channels, panel rows] of output channels.
template <class T>
struct PhaseWeights {
  std::vector<std::pair<int64_t, int64_t>> shifts;  // (y, x) of each tap
  int64_t depth = 0, offset = 0;                    // of the first group's first panel
};

template <class T>
class Weights {
 public:
  template <class S>
  Weights(const Params& p, const S* weight) : panel_(even_rows(p.group_outputs())), outputs_(p.group_outputs()) {
    const Taps rows(p.y), columns(p.x);
    const int64_t panels = ceil_div(outputs_, panel_);
    int64_t size = 0;
    for (const auto& row_phase : rows.phases) {
      for (const auto& column_phase : columns.phases) {
        PhaseWeights<T> phase;
        std::vector<int64_t> taps;  // within a kernel
        for (const auto& y : row_phase) {
          for (const auto& x : column_phase) {
            phase.shifts.push_back({y.shift, x.shift}), taps.push_back(y.k * p.x.kernel + x.k);
          }
        }
        phase.depth = int64_t(taps.size()) * p.group_channels(), phase.offset = size;
        size += p.groups * panels * phase.depth * panel_;
        phases_.push_back(phase), taps_.push_back(taps);
      }
    }
    data_.reserve(size_t(size));
    const int64_t kernel = p.y.kernel * p.x.kernel;
    parallel_for(p.groups * panels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / panels, first = i % panels * panel_, some = std::min(panel_, outputs_ - first);
        for (size_t f = 0; f < phases_.size(); ++f) {
          T* out = data_.data() + phases_[f].offset + i * phases_[f].depth * panel_;
          for (const int64_t tap : taps_[f]) {
            for (int64_t c = 0; c < p.group_channels(); ++c, out += panel_) {
              const S* source = weight + ((group * p.group_channels() + c) * outputs_ + first) * kernel + tap;
              for (int64_t r = 0; r < some; ++r) out[r] = static_cast<T>(source[r * kernel]);
              std::fill(out + some, out + panel_, T(0));
            }
          }
        }
      }
    });
  }

  int64_t panel_rows() const { return panel_; }
  const PhaseWeights<T>& phase(int64_t index) const { return phases_[size_t(index)]; }
  const T* panel(int64_t phase, int64_t group, int64_t index) const {
    const PhaseWeights<T>& f = phases_[size_t(phase)];
    return data_.data() + f.offset + (group * ceil_div(outputs_, panel_) + index) * f.depth * panel_;
  }

 private:
  // 8 outputs are 4 and 4, not 6 and 2: small tiles wait for their own sums.
  static int64_t even_rows(int64_t outputs) {
    return ceil_div(outputs, ceil_div(outputs, int64_t(gemm::tile<T>().rows)));
  }

  int64_t panel_, outputs_;
  std::vector<PhaseWeights<T>> phases_;
  std::vector<std::vector<int64_t>> taps_;
  Buffer<T> data_;
};

}  // namespace fastvision::conv_transpose2d
