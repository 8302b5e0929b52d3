// max_unpool2d on the CPU for channels side by side: the output in cells, each pixel of which is compared with the
// indices over all channels. What lies in its own cell meets no other input.
#pragma once

#include <vector>

#include "common/simd.h"
#include "upsample/max_unpool2d_scatter.h"

namespace fastvision::max_unpool2d {

constexpr int64_t kLanes = 16;  // channels that the general path takes together

// local [channels]: the indices of one input counted from the first pixel of its cell; false: one is not in these rows.
[[gnu::always_inline]] inline bool localise(const Params& p, const int64_t* places, int64_t first,
                                            int32_t* __restrict local) {
  const int64_t end = first + p.cell_height * p.out_width;
  uint64_t beyond = 0;
  for (int64_t c = 0; c < p.channels; ++c) {
    beyond |= distance_beyond(places[c], first, end);
    local[c] = int32_t(uint64_t(places[c]) - uint64_t(first));
  }
  return int64_t(beyond) >= 0;
}

// visit(pixel of the output, pixel of the cell) for the pixels of cell (i, j)
template <class Visit>
[[gnu::always_inline]] inline void for_each_pixel(const Params& p, int64_t first, const Visit& visit) {
  for (int64_t r = 0; r < p.cell_height; ++r) {
    for (int64_t s = 0; s < p.cell_width; ++s) visit(first + r * p.out_width + s, int32_t(r * p.out_width + s));
  }
}

// Row i of inputs: the rows of its cells, written once; false: an index points out of its cell.
template <class W>
[[gnu::always_inline]] inline bool unpool_row(const Params& p, const Map<const W>& in, const Places& places,
                                              const Map<W>& out, int64_t n, int64_t i, int32_t* local) {
  const int64_t channels = p.channels, used = p.width * p.cell_width;
  W* image = out.at(n, 0);
  for (int64_t j = 0; j < p.width; ++j) {
    const int64_t first = p.first_of_cell(i, j);
    if (!localise(p, places.at(n, 0) + i * places.step.h + j * places.step.w, first, local)) return false;
    const W* values = in.at(n, 0) + i * in.step.h + j * in.step.w;
    int64_t found = 0;
    for_each_pixel(p, first, [&](int64_t pixel, int32_t place) __attribute__((always_inline)) {
      W* __restrict target = image + pixel * channels;
      int32_t hits = 0;
      for (int64_t c = 0; c < channels; ++c) {
        target[c] = values[c] & all_bits_if<W>(local[c] == place);
        hits += local[c] == place;
      }
      found += hits;
    });
    if (found != channels) return false;
  }
  // what is right of the cells and, for the last row, below them
  for (int64_t y = i * p.cell_height; y < (i + 1) * p.cell_height; ++y) {
    std::fill(image + (y * p.out_width + used) * channels, image + (y + 1) * p.out_width * channels, W(0));
  }
  if (i + 1 == p.height) {
    std::fill(image + p.first_of_cell(p.height, 0) * channels, image + p.pixels() * channels, W(0));
  }
  return true;
}

template <class W>
[[gnu::always_inline]] inline bool gather_row(const Params& p, const Map<const W>& grad, const Places& places,
                                              const Map<W>& out, int64_t n, int64_t i, int32_t* local) {
  const W* image = grad.at(n, 0);
  for (int64_t j = 0; j < p.width; ++j) {
    const int64_t first = p.first_of_cell(i, j);
    if (!localise(p, places.at(n, 0) + i * places.step.h + j * places.step.w, first, local)) return false;
    W* __restrict target = out.at(n, 0) + i * out.step.h + j * out.step.w;
    std::fill_n(target, p.channels, W(0));
    int64_t found = 0;
    for_each_pixel(p, first, [&](int64_t pixel, int32_t place) __attribute__((always_inline)) {
      const W* values = image + pixel * grad.step.w;
      int32_t hits = 0;
      for (int64_t c = 0; c < p.channels; ++c) {
        target[c] |= values[c] & all_bits_if<W>(local[c] == place);
        hits += local[c] == place;
      }
      found += hits;
    });
    if (found != p.channels) return false;
  }
  return true;
}

// row(n, i, scratch) for every row of inputs, contiguous runs of them for each thread, until one of an image is false.
// Returns the images for which one was.
template <class Row>
std::vector<int64_t> for_each_input_row(const Params& p, const Row& row) {
  std::vector<uint8_t> failed(size_t(p.batch));
  parallel_for(p.batch * p.height, ceil_div(kGrain, p.channels * p.width), [&](int64_t begin, int64_t end) {
    Buffer<int32_t> local(size_t(p.channels));
    vectorized([&]() __attribute__((always_inline)) {
      for (int64_t r = begin; r < end; ++r) {
        const std::atomic_ref<uint8_t> flag(failed[size_t(r / p.height)]);
        if (flag.load(std::memory_order_relaxed)) continue;
        if (!row(r / p.height, r % p.height, local.data())) flag.store(1, std::memory_order_relaxed);
      }
    });
  });
  std::vector<int64_t> images;
  for (int64_t n = 0; n < p.batch; ++n) {
    if (failed[size_t(n)]) images.push_back(n);
  }
  return images;
}

// body(block), vectorised, for blocks of the channels of an image; each thread has a scratch of its own.
template <class Body>
void for_each_block(const Params& p, int64_t n, const Body& body) {
  parallel_for(ceil_div(p.channels, kLanes), 1, [&](int64_t begin, int64_t end) {
    Buffer<int32_t> scratch;
    vectorized([&]() __attribute__((always_inline)) {
      for (int64_t b = begin; b < end; ++b) {
        body(Block{n, b * kLanes, std::min(kLanes, p.channels - b * kLanes)}, scratch);
      }
    });
  });
}

// Whether inputs and indices can be read a pixel at a time.
template <class A>
bool has_cells(const Params& p, const Map<A>& map, const Places& places) {
  return map.step.c == 1 && places.step.c == 1 && p.cell_width > 0 && p.cell_height * p.out_width <= INT32_MAX;
}

template <class W>
void unpool_channels(const Params& p, const Map<const W>& in, const Places& places, const Map<W>& out,
                     FirstWrong& wrong) {
  const bool cells = has_cells(p, in, places);
  const auto images = for_each_input_row(p, [&](int64_t n, int64_t i, int32_t* local) __attribute__((always_inline)) {
    return cells && unpool_row(p, in, places, out, n, i, local);
  });
  for (const int64_t n : images) {
    W* image = out.at(n, 0);
    parallel_for(p.pixels() * p.channels, kGrain, [&](int64_t a, int64_t b) { std::fill(image + a, image + b, W(0)); });
    for_each_block(p, n, [&](const Block& block, Buffer<int32_t>&) __attribute__((always_inline)) {
      scatter(p, in, places, out, block, wrong);
    });
  }
}

template <class W>
void gather_channels(const Params& p, const Map<const W>& grad, const Places& places, const Map<W>& out,
                     FirstWrong& wrong) {
  const bool cells = has_cells(p, grad, places);
  const auto images = for_each_input_row(p, [&](int64_t n, int64_t i, int32_t* local) __attribute__((always_inline)) {
    return cells && gather_row(p, grad, places, out, n, i, local);
  });
  for (const int64_t n : images) {
    for_each_block(p, n, [&](const Block& block, Buffer<int32_t>& last) __attribute__((always_inline)) {
      gather(p, grad, places, out, block, last, wrong);
    });
  }
}

}  // namespace fastvision::max_unpool2d
