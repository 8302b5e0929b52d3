// Dense transposed convolution on the CPU: one matrix product for each sub-pixel phase, fused with what follows it.
//
// The input is laid out once as [channels, positions], images one after the other, with zeros between rows for taps
// that reach beyond them: then what a tap reads for 32 neighbouring outputs are 32 neighbouring numbers, wherever they
// lie. A task packs those of all taps and channels for a few tiles (they stay in the cache), multiplies them with all
// output channels of all column phases, and interleaves the phases on the way out. Nothing of the size of the output is
// stored but the output.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/copy.h"
#include "common/gemm.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/transpose.h"
#include "upsample/phase_operands.h"

namespace fastvision::conv_transpose2d {

// What a tile has of one row of outputs: `count` of its numbers from `from` on, column phases interleaved, go to
// `target` in the first channel.
struct Segment {
  int64_t from, count, target;
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
        tile_(gemm::tile<T>()),
        rows_(weights_.panel_rows()) {
    bias_.assign(size_t(p.outputs), T(0));
    if (bias) std::transform(bias, bias + p.outputs, bias_.begin(), [](S b) { return static_cast<T>(b); });
  }

  void run() {
    // tiles cover the rows of positions of all images, the margins between them included
    const int64_t start = staged_.margin_y * staged_.columns + staged_.margin_x;  // no tap reads what lies before
    const int64_t grid = p_.batch * staged_.rows * staged_.columns;
    const int64_t tiles = ceil_div(grid - start, int64_t(tile_.columns));
    const int64_t together = tiles_together(tiles), groups_of_tiles = ceil_div(tiles, together);
    const int64_t tasks = groups_of_tiles * p_.y.stride;
    const int64_t run = std::max<int64_t>(1, 256 / (tile_.columns * together)) * p_.y.stride;
    parallel_for(tasks * p_.groups, run, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      scratch.tiles.resize(size_t(together));
      for (int64_t i = begin; i < end; ++i) {
        // groups within the rows of positions: the output of a group is a slice of channels
        const int64_t group = i % p_.groups, task = i / p_.groups, first = task / p_.y.stride * together;
        const int64_t position = start + first * tile_.columns;
        product(group, position, std::min(together, tiles - first), task % p_.y.stride, scratch);
      }
    });
  }

 private:
  struct PackedTile {
    std::vector<Segment> segments;
    std::vector<const T*> panels;  // of each column phase
    Buffer<T> packed;
  };
  struct Scratch {
    std::vector<PackedTile> tiles;
    Buffer<T> sums, line;
  };

  // Tiles that are multiplied with a block of weights while those are in the cache, as many as fit there beside them.
  int64_t tiles_together(int64_t tiles) const {
    constexpr int64_t kCache = 128 << 10;  // bytes
    int64_t packed = 0;
    for (int64_t row_phase = 0; row_phase < p_.y.stride; ++row_phase) packed = std::max(packed, packed_size(row_phase));
    const int64_t fitting = kCache / (packed * tile_.columns * int64_t(sizeof(T)) + 1);
    return std::clamp<int64_t>(std::min(fitting, tiles / (2 * thread_count())), 1, 8);
  }

  // Whether a column phase reads what the one before it does.
  bool as_before(int64_t row_phase, int64_t f) const {
    const int64_t index = row_phase * p_.x.stride + f;
    return f > 0 && weights_.phase(index).shifts == weights_.phase(index - 1).shifts;
  }

  // Numbers packed for each position, of all column phases.
  int64_t packed_size(int64_t row_phase) const {
    int64_t size = 0;
    for (int64_t f = 0; f < p_.x.stride; ++f) {
      if (!as_before(row_phase, f)) size += weights_.phase(row_phase * p_.x.stride + f).depth;
    }
    return size;
  }

  // `first`: a position of the grid, which counts the margins
  void pack(int64_t group, int64_t first, int64_t row_phase, PackedTile& tile) const {
    const int64_t columns = tile_.columns, phases = p_.x.stride, channels = p_.group_channels();
    find_segments(first, row_phase, tile.segments);
    if (tile.segments.empty() || unpacked()) return;
    tile.packed.reserve(size_t(packed_size(row_phase) * columns));
    tile.panels.assign(size_t(phases), nullptr);
    T* out = tile.packed.data();
    for (int64_t f = 0; f < phases; ++f) {
      if (as_before(row_phase, f)) {
        tile.panels[size_t(f)] = tile.panels[size_t(f - 1)];
        continue;
      }
      tile.panels[size_t(f)] = out;
      for (const auto& [y, x] : weights_.phase(row_phase * phases + f).shifts) {
        const T* source = staged_.data.data() + group * channels * staged_.step + first - y * staged_.columns - x;
        for (int64_t c = 0; c < channels; ++c, out += columns, source += staged_.step) {
          std::memcpy(out, source, size_t(columns) * sizeof(T));
        }
      }
    }
  }

  // Few outputs: what is packed would be used once or twice.
  bool unpacked() const { return p_.group_outputs() <= kFewOutputs; }

  void multiply_in_place(int64_t group, int64_t first, int64_t index, T* sums) const {
    const auto& phase = weights_.phase(index);
    const int64_t channels = p_.group_channels(), columns = tile_.columns, outputs = p_.group_outputs();
    if (phase.shifts.empty()) std::fill_n(sums, outputs * columns, T(0));
    for (int64_t r = 0; r < outputs; r += rows_) {
      const T* panel = weights_.panel(index, group, r / rows_);
      bool accumulate = false;
      for (const auto& [y, x] : phase.shifts) {
        const T* source = staged_.data.data() + group * channels * staged_.step + first - y * staged_.columns - x;
        gemm::multiply<T>(std::min(rows_, outputs - r),
                          {panel, rows_, source, staged_.step, channels, sums + r * columns, columns, accumulate});
        panel += channels * rows_, accumulate = true;
      }
    }
  }

  void product(int64_t group, int64_t first, int64_t tiles, int64_t row_phase, Scratch& s) const {
    const int64_t columns = tile_.columns, phases = p_.x.stride, outputs = p_.group_outputs(), block = block_rows();
    for (int64_t t = 0; t < tiles; ++t) pack(group, first + t * columns, row_phase, s.tiles[size_t(t)]);
    s.sums.reserve(size_t(phases * block * columns));
    s.line.reserve(size_t(phases * block * columns));
    for (int64_t o = 0; o < outputs; o += block) {
      const int64_t some = std::min(block, outputs - o);
      for (int64_t t = 0; t < tiles; ++t) {
        const PackedTile& tile = s.tiles[size_t(t)];
        if (tile.segments.empty()) continue;
        for (int64_t f = 0; f < phases; ++f) {
          T* sums = s.sums.data() + f * block * columns;
          if (unpacked()) {
            multiply_in_place(group, first + t * columns, row_phase * phases + f, sums);
            continue;
          }
          const int64_t index = row_phase * phases + f;
          for (int64_t r = 0; r < some; r += rows_) {
            gemm::multiply<T>(std::min(rows_, some - r),
                              {weights_.panel(index, group, (o + r) / rows_), rows_, tile.panels[size_t(f)], columns,
                               weights_.phase(index).depth, sums + r * columns, columns, false});
          }
        }
        vectorized([&]() __attribute__((always_inline)) { store(tile.segments, s, group * outputs + o, some); });
      }
    }
  }

  // Output channels that are multiplied before any is stored: enough that channels_last writes whole cache lines.
  int64_t block_rows() const { return kPanels * rows_; }

  void find_segments(int64_t first, int64_t row_phase, std::vector<Segment>& segments) const {
    const int64_t stride = p_.x.stride;
    segments.clear();
    for (int64_t l = 0; l < tile_.columns;) {
      const int64_t row = (first + l) / staged_.columns, column = (first + l) % staged_.columns;
      const int64_t length = std::min(tile_.columns - l, staged_.columns - column), image = row / staged_.rows;
      const int64_t oy = (row % staged_.rows - staged_.margin_y) * p_.y.stride + row_phase - p_.y.padding;
      const int64_t start = (column - staged_.margin_x) * stride - p_.x.padding;  // margins lie before the row
      const int64_t low = std::max<int64_t>(0, start), high = std::min(p_.x.out, start + length * stride);
      if (image < p_.batch && oy >= 0 && oy < p_.y.out && low < high) {
        segments.push_back({l * stride + low - start, high - low, image * out_.n + oy * out_.h + low * out_.w});
      }
      l += length;
    }
  }

  // sums [phases, block, columns] -> outputs [channel, channel + some) of every segment
  [[gnu::always_inline]] void store(const std::vector<Segment>& segments, Scratch& s, int64_t channel,
                                    int64_t some) const {
    const int64_t stride = p_.x.stride, columns = tile_.columns, block = block_rows();
    const Activation<T> activate = activation_;
    if (out_.w == 1) {
      for (int64_t r = 0; r < some; ++r) {
        T* line = s.sums.data() + r * columns;
        if (stride > 1) {
          interleave(line, block * columns, stride, columns, s.line.data());
          line = s.line.data();
        }
        const T bias = bias_[size_t(channel + r)];
        for (int64_t i = 0; i < columns * stride; ++i) line[i] = activate(line[i] + bias);
        S* plane = output_ + (channel + r) * out_.c;
        for (const Segment& segment : segments) {
          S* __restrict target = plane + segment.target;
          const T* source = line + segment.from;
          for (int64_t i = 0; i < segment.count; ++i) target[i] = static_cast<S>(source[i]);
        }
      }
      return;
    }
    T* line = s.line.data();  // [columns, stride, some]: pixels of a row, one after the other
    for (int64_t f = 0; f < stride; ++f) {
      T* sums = s.sums.data() + f * block * columns;
      for (int64_t r = 0; r < some; ++r) {
        const T bias = bias_[size_t(channel + r)];
        for (int64_t l = 0; l < columns; ++l) sums[r * columns + l] = activate(sums[r * columns + l] + bias);
      }
      transpose(sums, columns, some, columns, line + f * some, stride * some);
    }
    for (const Segment& segment : segments) {
      const T* source = line + segment.from * some;
      S* pixel = output_ + channel + segment.target;  // channels_last
      if (out_.w == some) {
        copy(source, segment.count * some, pixel);
      } else {
        for (int64_t i = 0; i < segment.count; ++i) copy(source + i * some, some, pixel + i * out_.w);
      }
    }
  }

  static constexpr int64_t kPanels = 4, kFewOutputs = 8;

  const Params p_;
  const Staged<T> staged_;
  const Weights<T> weights_;
  const Activation<T> activation_;
  std::vector<T> bias_;
  S* output_;
  const Strides out_;
  const gemm::Tile tile_;
  const int64_t rows_;  // of a panel of weights
};

}  // namespace fastvision::conv_transpose2d
