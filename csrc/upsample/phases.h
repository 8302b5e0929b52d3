// Dense transposed convolution on the CPU: one matrix product for each sub-pixel phase, fused with what follows it.
//
// The input is laid out once as [channels, positions], images one after the other, with zeros between rows for taps
// that reach beyond them: then what a tap reads for 32 neighbouring outputs are 32 neighbouring numbers, wherever they
// lie. A task packs those of all taps and channels (they stay in the cache), multiplies them with all output channels
// of all column phases, and interleaves the phases on the way out. Nothing of the size of the output is stored but the
// output.
#pragma once

#include <algorithm>
#include <cstring>
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
  Weights(const Params& p, const S* weight) : panel_(gemm::tile<T>().rows), outputs_(p.group_outputs()) {
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

  const PhaseWeights<T>& phase(int64_t index) const { return phases_[size_t(index)]; }
  const T* panel(int64_t phase, int64_t group, int64_t index) const {
    const PhaseWeights<T>& f = phases_[size_t(phase)];
    return data_.data() + f.offset + (group * ceil_div(outputs_, panel_) + index) * f.depth * panel_;
  }

 private:
  int64_t panel_, outputs_;
  std::vector<PhaseWeights<T>> phases_;
  std::vector<std::vector<int64_t>> taps_;
  Buffer<T> data_;
};

// A run of neighbouring positions in one row of the grid of positions.
struct Segment {
  int64_t tile_at, length, image, q_y, q_x;
};

template <class T, class S>
class PhaseProducts {
 public:
  PhaseProducts(const Params& p, const S* input, const Strides& in, const S* weight, const S* bias,
                Activation<T> activation, S* output, const Strides& out)
      : p_(p),
        staged_(p, input, in),
        weights_(p, weight),
        activation_(activation),
        output_(output),
        out_(out),
        tile_(gemm::tile<T>()) {
    bias_.assign(size_t(p.outputs), T(0));
    if (bias) std::transform(bias, bias + p.outputs, bias_.begin(), [](S b) { return static_cast<T>(b); });
  }

  void run() {
    // tiles cover the rows of positions of all images, the margins between them included
    const int64_t start = staged_.margin_y * staged_.columns + staged_.margin_x;  // no tap reads what lies before
    const int64_t grid = p_.batch * staged_.rows * staged_.columns;
    const int64_t tiles = ceil_div(grid - start, int64_t(tile_.columns));
    const int64_t tasks = tiles * p_.y.stride, run = std::max<int64_t>(1, 256 / tile_.columns) * p_.y.stride;
    parallel_for(tasks * p_.groups, run, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t i = begin; i < end; ++i) {
        // groups within the rows of positions: the output of a group is a slice of channels
        const int64_t group = i % p_.groups, task = i / p_.groups;
        product(group, start + task / p_.y.stride * tile_.columns, task % p_.y.stride, scratch);
      }
    });
  }

 private:
  struct Scratch {
    std::vector<Segment> segments;
    std::vector<const T*> panels;  // of each column phase
    Buffer<T> packed, sums, line;
  };

  // `first`: a position of the grid, which counts the margins
  void product(int64_t group, int64_t first, int64_t row_phase, Scratch& s) {
    find_segments(first, s.segments);
    if (s.segments.empty()) return;
    const int64_t columns = tile_.columns, phases = p_.x.stride, channels = p_.group_channels();
    int64_t most = 0;
    for (int64_t f = 0; f < phases; ++f) most = std::max(most, weights_.phase(row_phase * phases + f).depth);
    s.packed.reserve(size_t(phases * most * columns));
    s.sums.reserve(size_t(phases * block_rows() * columns));
    s.line.reserve(size_t(std::max(phases, block_rows()) * columns));
    s.panels.assign(size_t(phases), nullptr);
    for (int64_t f = 0; f < phases; ++f) {
      const auto& phase = weights_.phase(row_phase * phases + f);
      if (f > 0 && phase.shifts == weights_.phase(row_phase * phases + f - 1).shifts) {
        s.panels[size_t(f)] = s.panels[size_t(f - 1)];
        continue;
      }
      T* out = s.packed.data() + f * most * columns;
      s.panels[size_t(f)] = out;
      for (const auto& [y, x] : phase.shifts) {
        const T* source = staged_.data.data() + group * channels * staged_.step + first - y * staged_.columns - x;
        for (int64_t c = 0; c < channels; ++c, out += columns, source += staged_.step) {
          std::memcpy(out, source, size_t(columns) * sizeof(T));
        }
      }
    }
    const int64_t outputs = p_.group_outputs(), block = block_rows();
    for (int64_t o = 0; o < outputs; o += block) {
      const int64_t some = std::min(block, outputs - o);
      for (int64_t f = 0; f < phases; ++f) {
        const int64_t index = row_phase * phases + f;
        for (int64_t r = 0; r < some; r += tile_.rows) {
          gemm::multiply<T>(
              std::min<int64_t>(tile_.rows, some - r),
              {weights_.panel(index, group, (o + r) / tile_.rows), tile_.rows, s.panels[size_t(f)], columns,
               weights_.phase(index).depth, s.sums.data() + (f * block + r) * columns, columns, false});
        }
      }
      vectorized([&]() __attribute__((always_inline)) { store(s, group * outputs + o, some, row_phase); });
    }
  }

  // Output channels that are multiplied before any is stored: enough that channels_last writes whole cache lines.
  int64_t block_rows() const { return kPanels * tile_.rows; }

  void find_segments(int64_t first, std::vector<Segment>& segments) const {
    segments.clear();
    for (int64_t l = 0; l < tile_.columns;) {
      const int64_t row = (first + l) / staged_.columns, column = (first + l) % staged_.columns;
      const int64_t length = std::min(tile_.columns - l, staged_.columns - column), image = row / staged_.rows;
      const int64_t skipped = std::max<int64_t>(0, staged_.margin_x - column);
      const int64_t q_y = row % staged_.rows - staged_.margin_y, q_x = column - staged_.margin_x;
      if (image < p_.batch && q_y >= 0 && skipped < length) {
        segments.push_back({l + skipped, length - skipped, image, q_y, q_x + skipped});
      }
      l += length;
    }
  }

  // sums [phases, block, columns] -> outputs [channel, channel + some) of every segment
  [[gnu::always_inline]] void store(Scratch& s, int64_t channel, int64_t some, int64_t row_phase) const {
    const int64_t stride = p_.x.stride, columns = tile_.columns, block = block_rows();
    const Activation<T> activate = activation_;
    T* sums = s.sums.data();
    for (int64_t f = 0; f < stride; ++f) {
      for (int64_t r = 0; r < some; ++r) {
        T* row = sums + (f * block + r) * columns;
        const T bias = bias_[size_t(channel + r)];
        for (int64_t l = 0; l < columns; ++l) row[l] = activate(row[l] + bias);
      }
    }
    for (const Segment& segment : s.segments) {
      const int64_t oy = segment.q_y * p_.y.stride + row_phase - p_.y.padding;
      if (oy < 0 || oy >= p_.y.out) continue;
      // outputs [low, high) of the row, the first of which may be cut off
      const int64_t start = segment.q_x * stride - p_.x.padding;
      const int64_t low = std::max<int64_t>(0, start), high = std::min(p_.x.out, start + segment.length * stride);
      if (low >= high) continue;
      S* target = output_ + segment.image * out_.n + channel * out_.c + oy * out_.h;
      if (out_.w == 1) {
        for (int64_t r = 0; r < some; ++r) {
          const T* line = sums + r * columns + segment.tile_at;
          if (stride > 1) {
            interleave(line, block * columns, stride, segment.length, s.line.data());
            line = s.line.data();
          }
          S* row = target + r * out_.c;
          for (int64_t x = low; x < high; ++x) row[x] = static_cast<S>(line[x - start]);
        }
        continue;
      }
      for (int64_t f = 0; f < stride; ++f) {
        T* turned = s.line.data();  // [length, some]
        transpose(sums + f * block * columns + segment.tile_at, columns, some, segment.length, turned, some);
        for (int64_t l = 0; l < segment.length; ++l) {
          const int64_t x = start + l * stride + f;
          if (x < low || x >= high) continue;
          S* pixel = target + x * out_.w;
          for (int64_t r = 0; r < some; ++r) pixel[r * out_.c] = static_cast<S>(turned[l * some + r]);
        }
      }
    }
  }

  static constexpr int64_t kPanels = 4;

  const Params p_;
  const Staged<T> staged_;
  const Weights<T> weights_;
  const Activation<T> activation_;
  std::vector<T> bias_;
  S* output_;
  const Strides out_;
  const gemm::Tile tile_;
};

}  // namespace fastvision::conv_transpose2d
