// max_unpool2d on the CPU for planes of pixels side by side: the output in bands of a few rows, each cleared in the
// cache, then scattered to. Inputs may have any strides.
#pragma once

#include <optional>

#include "common/simd.h"
#include "upsample/max_unpool2d_pairs.h"
#include "upsample/max_unpool2d_scatter.h"

namespace fastvision::max_unpool2d {

constexpr int64_t kBandBytes = 16 << 10;  // half of a small L1 cache

[[gnu::always_inline]] inline bool all_within(const int64_t* places, int64_t step, int64_t count, int64_t low,
                                              int64_t high) {
  uint64_t beyond = 0;
  if (step == 1) {
    for (int64_t j = 0; j < count; ++j) beyond |= distance_beyond(places[j], low, high);
  } else {
    for (int64_t j = 0; j < count; ++j) beyond |= distance_beyond(places[j * step], low, high);
  }
  return int64_t(beyond) >= 0;
}

// Input rows that make a band of the output: as many as stay in the cache.
inline int64_t rows_of_band(const Params& p, int64_t element) {
  const int64_t bytes = p.cell_height * p.out_width * element;
  return bytes == 0 ? p.height : std::clamp<int64_t>(kBandBytes / bytes, 1, p.height);
}

// One plane, band by band; false: an index points out of its band, and the plane is to be done again.
template <class W>
[[gnu::always_inline]] inline bool unpool_bands(const Params& p, const W* values, const Strides& step,
                                                const int64_t* places, const Strides& place_step, int64_t band_rows,
                                                W* target) {
  const bool flat = step.h == p.width * step.w && place_step.h == p.width * place_step.w;
  for (int64_t first = 0; first < p.height; first += band_rows) {
    const int64_t rows = std::min(band_rows, p.height - first);
    const int64_t low = p.first_of_cell(first, 0);
    const int64_t high = first + rows == p.height ? p.pixels() : p.first_of_cell(first + rows, 0);
    const int64_t lines = flat ? 1 : rows, length = flat ? rows * p.width : p.width;
    const int64_t* line_places = places + first * place_step.h;
    const W* line = values + first * step.h;
    for (int64_t y = 0; y < lines; ++y) {
      if (!all_within(line_places + y * place_step.h, place_step.w, length, low, high)) return false;
    }
    std::fill(target + low, target + high, W(0));
    for (int64_t y = 0; y < lines; ++y) {
      const int64_t* to = line_places + y * place_step.h;
      const W* from = line + y * step.h;
      for (int64_t j = 0; j < length; ++j) target[to[j * place_step.w]] = from[j * step.w];
    }
  }
  return true;
}

// Whether each of a row of indices lies in its own cell.
[[gnu::always_inline]] inline bool all_in_cells(const Params& p, const int64_t* places, int64_t step, int64_t i) {
  const uint64_t width = uint64_t(p.cell_width);
  int64_t inside = 0;
  for (int64_t r = 0; r < p.cell_height; ++r) {
    const uint64_t first = uint64_t(p.first_of_cell(i, 0) + r * p.out_width);
    if (step == 1) {
      for (int64_t j = 0; j < p.width; ++j) inside += uint64_t(places[j]) - first - uint64_t(j) * width < width;
    } else {
      for (int64_t j = 0; j < p.width; ++j) inside += uint64_t(places[j * step]) - first - uint64_t(j) * width < width;
    }
  }
  return inside == p.width;
}

// The pixels that belong to no cell: right of them, and below.
template <class W>
[[gnu::always_inline]] inline void clear_rest(const Params& p, W* target) {
  const int64_t used = p.height * p.cell_height, rest = p.out_width - p.width * p.cell_width;
  for (int64_t y = 1; rest > 0 && y <= used; ++y) std::fill_n(target + y * p.out_width - rest, rest, W(0));
  std::fill(target + used * p.out_width, target + p.pixels(), W(0));
}

// A contiguous run of planes for each thread: two on one fresh huge page would both clear it.
template <class W>
void unpool_planes(const Params& p, const Map<const W>& in, const Places& places, const Map<W>& out,
                   FirstWrong& wrong) {
  constexpr int64_t kWord = int64_t(sizeof(W)), kInput = kWord + int64_t(sizeof(int64_t));
  const int64_t rows = rows_of_band(p, kWord);
  const int64_t all = p.batch * p.channels * (p.height * p.width * kInput + p.pixels() * kWord);
  const auto run = [&](int64_t begin, int64_t end) {
    const Stream stream(all, p.out_width * kWord);
    const Buffer<int32_t> offsets(size_t(p.width));
    const Buffer<W> line(size_t(stream ? 2 * p.width : 0));
    vectorized([&]<int kBytes>(RegisterBytes<kBytes> bytes) __attribute__((always_inline)) {
      const bool by_words = in_words<W>(bytes, p, in.step, places.step);
      const bool by_pairs = !by_words && in_pairs<W>(p, in.step, places.step);
      for (int64_t plane = begin; plane < end; ++plane) {
        const Block block{plane / p.channels, plane % p.channels, 1};
        W* target = out.at(block.n, block.c);
        const PairedPlane<const W, W> pairs{in.at(block.n, block.c), in.step.h, places.at(block.n, block.c),
                                            places.step.h, target};
        bool done = by_pairs && unpool_pairs<kBytes>(p, pairs, offsets.data(), stream, line.data());
        if constexpr (sizeof(W) == 4) done = done || (by_words && unpool_words(p, pairs));
        if (done) {
          clear_rest(p, target);
          continue;
        }
        if (unpool_bands(p, in.at(block.n, block.c), in.step, places.at(block.n, block.c), places.step, rows, target)) {
          continue;
        }
        std::fill_n(target, p.pixels(), W(0));
        scatter(p, in, places, out, block, wrong);
      }
    });
  };
  parallel_for(p.batch * p.channels, ceil_div(kGrain, p.height * p.width), run);
}

// Where the cells of a plane start, so that all its rows are looked at in one loop: a vector loop over a short row is
// mostly what is left over after its last whole vector.
class FirstOfCells {
 public:
  explicit FirstOfCells(const Params& p)
      : count_(p.height * p.width), first_(size_t(count_)), offsets_(size_t(count_)) {
    for (int64_t i = 0, k = 0; i < p.height; ++i) {
      for (int64_t j = 0; j < p.width; ++j, ++k) first_[size_t(k)] = uint32_t(p.first_of_cell(i, j));
    }
  }

  static bool fits(const Params& p, const Strides& places) {
    constexpr int64_t kMost = 4096;  // whose starts and offsets stay in the L1 cache
    return places.w == 1 && places.h == p.width && p.height * p.width <= kMost && p.pixels() <= INT32_MAX;
  }

  // Whether each index of a plane lies in its own cell.
  [[gnu::always_inline]] bool hold(const Params& p, const int64_t* __restrict places) {
    const uint32_t* __restrict first = first_.data();
    uint32_t* __restrict offsets = offsets_.data();
    uint64_t places_of_all = 0;
    for (int64_t k = 0; k < count_; ++k) {
      places_of_all |= uint64_t(places[k]), offsets[k] = uint32_t(places[k]) - first[k];
    }
    if (places_of_all > uint64_t(INT32_MAX)) return false;
    int32_t inside = 0;
    for (int64_t r = 0; r < p.cell_height; ++r) {
      const uint32_t row = uint32_t(r * p.out_width), width = uint32_t(p.cell_width);
      for (int64_t k = 0; k < count_; ++k) inside += offsets[k] - row < width;
    }
    return inside == int32_t(count_);
  }

 private:
  int64_t count_;
  Buffer<uint32_t> first_, offsets_;
};

// to[k] = values[places[k]], each with its step; of neighbours the compiler makes one instruction.
template <class W>
[[gnu::always_inline]] inline void take(const W* __restrict values, int64_t pixel, const int64_t* __restrict places,
                                        int64_t place_step, int64_t count, W* __restrict to, int64_t step) {
  if (pixel == 1 && place_step == 1 && step == 1) {
    for (int64_t k = 0; k < count; ++k) to[k] = values[places[k]];
  } else {
    for (int64_t k = 0; k < count; ++k) to[k * step] = values[places[k * place_step] * pixel];
  }
}

template <class W>
[[gnu::always_inline]] inline bool gather_cells(const Params& p, const W* values, int64_t pixel, const int64_t* places,
                                                const Strides& place_step, W* target, const Strides& step) {
  for (int64_t i = 0; i < p.height; ++i) {
    const int64_t* from = places + i * place_step.h;
    if (!all_in_cells(p, from, place_step.w, i)) return false;
    take(values, pixel, from, place_step.w, p.width, target + i * step.h, step.w);
  }
  return true;
}

template <class W>
void gather_planes(const Params& p, const Map<const W>& grad, const Places& places, const Map<W>& out,
                   FirstWrong& wrong) {
  const bool by_pairs = in_pairs<W>(p, out.step, places.step) && grad.step.w == 1;
  const bool by_plane = !by_pairs && FirstOfCells::fits(p, places.step);
  const auto run = [&](int64_t begin, int64_t end) {
    Buffer<int32_t> last;
    std::optional<FirstOfCells> cells = by_plane ? std::optional<FirstOfCells>(p) : std::nullopt;
    const Buffer<int32_t> offsets(size_t(p.width));
    vectorized([&]() __attribute__((always_inline)) {
      for (int64_t plane = begin; plane < end; ++plane) {
        const Block block{plane / p.channels, plane % p.channels, 1};
        const PairedPlane<W, const W> pairs{out.at(block.n, block.c), out.step.h, places.at(block.n, block.c),
                                            places.step.h, grad.at(block.n, block.c)};
        if (by_pairs && gather_pairs(p, pairs, offsets.data())) continue;
        if (by_plane && cells->hold(p, places.at(block.n, block.c))) {
          const int64_t* from = places.at(block.n, block.c);
          const W* values = grad.at(block.n, block.c);
          W* to = out.at(block.n, block.c);
          take(values, grad.step.w, from, 1, p.height * p.width, to, out.step.w);
          continue;
        }
        if (!gather_cells(p, grad.at(block.n, block.c), grad.step.w, places.at(block.n, block.c), places.step,
                          out.at(block.n, block.c), out.step)) {
          gather(p, grad, places, out, block, last, wrong);
        }
      }
    });
  };
  parallel_for(p.batch * p.channels, ceil_div(kGrain, p.height * p.width), run);
}

}  // namespace fastvision::max_unpool2d
