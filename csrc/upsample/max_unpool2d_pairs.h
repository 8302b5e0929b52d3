// max_unpool2d on the CPU for planes whose cells are two pixels wide, which inputs do not leave: what a pixel of the
// output holds is a comparison, so that whole vectors are written, zeros and all.
#pragma once

#include <bit>
#include <cstring>

#include "common/simd.h"
#include "common/stream.h"
#include "upsample/max_unpool2d_scatter.h"

namespace fastvision::max_unpool2d {

// A plane of inputs and their indices, row by row, neighbours side by side, and the pixels of the other plane.
template <class In, class Pixel>
struct PairedPlane {
  In* inputs;
  int64_t step;
  const int64_t* places;
  int64_t place_step;
  Pixel* pixels;
};

// Whether planes can be visited in pairs, and rows are long enough: short ones are mostly rest, one number at a time.
// Numbers of eight bytes fill too few lanes. step, place_step: of inputs and indices.
template <class W>
bool in_pairs(const Params& p, const Strides& step, const Strides& place_step) {
  return sizeof(W) < 8 && p.cell_width == 2 && p.width >= 3 * kVectorLanes<float> && p.pixels() <= INT32_MAX &&
         step.w == 1 && place_step.w == 1;
}

// Where the inputs of row i point, counted from the upper left pixel of their cells, in 32 bits: half as much to
// compare. false: one points to a row of the output that is not of its cell.
[[gnu::always_inline]] inline bool offsets_in_cells(const Params& p, const int64_t* __restrict places, int64_t i,
                                                    int32_t* __restrict offsets) {
  const int64_t low = p.first_of_cell(i, 0), high = low + p.cell_height * p.out_width;
  uint64_t beyond = 0;
  for (int64_t j = 0; j < p.width; ++j) {
    beyond |= distance_beyond(places[j], low, high);
    offsets[j] = int32_t(uint64_t(places[j]) - uint64_t(low) - 2 * uint64_t(j));
  }
  return int64_t(beyond) >= 0;
}

// Every pixel of the cells. false: an input is not in its cell, and the plane is to be done again.
// line: scratch for a row of pixels that is streamed
template <int kBytes, class W>
[[gnu::always_inline]] inline bool unpool_pairs(const Params& p, const PairedPlane<const W, W>& plane, int32_t* offsets,
                                                const Stream& stream, W* line) {
  for (int64_t i = 0; i < p.height; ++i) {
    const W* __restrict from = plane.inputs + i * plane.step;
    if (!offsets_in_cells(p, plane.places + i * plane.place_step, i, offsets)) return false;
    int32_t inside = 0;
    for (int64_t r = 0; r < p.cell_height; ++r) {
      const int32_t row = int32_t(r * p.out_width);
      W* const pixels = plane.pixels + p.first_of_cell(i, 0) + row;
      W* __restrict out = stream ? line : pixels;
      for (int64_t j = 0; j < p.width; ++j) {
        const int32_t place = offsets[j] - row;
        inside += (place & ~1) == 0;
        out[2 * j] = from[j] & all_bits_if<W>(place == 0);
        out[2 * j + 1] = from[j] & all_bits_if<W>(place == 1);
      }
      if (stream) stream.copy<kBytes>(out, 2 * p.width, pixels);
    }
    if (inside != int32_t(p.width)) return false;
  }
  return true;
}

// Its gradient: both pixels of a row of a cell are read, and one is taken.
template <class W>
[[gnu::always_inline]] inline bool gather_pairs(const Params& p, const PairedPlane<W, const W>& plane,
                                                int32_t* offsets) {
  for (int64_t i = 0; i < p.height; ++i) {
    if (!offsets_in_cells(p, plane.places + i * plane.place_step, i, offsets)) return false;
    W* __restrict to = plane.inputs + i * plane.step;
    int32_t inside = 0;
    for (int64_t r = 0; r < p.cell_height; ++r) {
      const int32_t row = int32_t(r * p.out_width);
      const W* __restrict from = plane.pixels + p.first_of_cell(i, 0) + row;
      for (int64_t j = 0; j < p.width; ++j) {
        const int32_t place = offsets[j] - row;
        inside += (place & ~1) == 0;
        const W other = r == 0 ? W(0) : to[j], left = from[2 * j], right = from[2 * j + 1];
        to[j] = other | (left & all_bits_if<W>(place == 0)) | (right & all_bits_if<W>(place == 1));
      }
    }
    if (inside != int32_t(p.width)) return false;
  }
  return true;
}

#if defined(__x86_64__) && defined(__GNUC__)

// Rows that the loops above would mostly visit one by one, but which fill an AVX-512 register of indices.
template <class W, int kBytes>
bool in_words(RegisterBytes<kBytes>, const Params& p, const Strides& step, const Strides& place_step) {
  return kBytes == 64 && sizeof(W) == 4 && p.cell_width == 2 && p.width >= 8 && p.width < 64 && step.w == 1 &&
         place_step.w == 1;
}

// unpool_pairs of such rows: the two pixels of a row of a cell are one word, eight of them a register, and the last
// register of a row may cover inputs of the one before.
[[gnu::target("avx512f"), gnu::noinline]] inline bool unpool_words(const Params& params,
                                                                   const PairedPlane<const uint32_t, uint32_t>& plane) {
  static_assert(std::endian::native == std::endian::little, "the left pixel is the low half of its word");
  constexpr int kLanes = 8;
  using Words = Register<uint64_t, 64>::Raw;
  using Numbers = Register<uint32_t, 32>::Raw;
  const Params p = params;  // a copy, which no store may change
  const Words along_row = {0, 2, 4, 6, 8, 10, 12, 14}, none{};
  Words hits{};
  for (int64_t i = 0; i < p.height; ++i) {
    const uint32_t* const from = plane.inputs + i * plane.step;
    const int64_t* const places = plane.places + i * plane.place_step;
    for (int64_t r = 0; r < p.cell_height; ++r) {
      const int64_t first = p.first_of_cell(i, 0) + r * p.out_width;
      for (int64_t j = 0; j < p.width; j += kLanes) {
        const int64_t input = std::min(j, p.width - kLanes);
        Words place;
        Numbers numbers;
        std::memcpy(&place, places + input, sizeof place);
        std::memcpy(&numbers, from + input, sizeof numbers);
        place -= along_row + uint64_t(first + 2 * input);
        const auto left = place == 0, right = place == 1;
        hits -= Words(left | right);
        const Words word = __builtin_convertvector(numbers, Words);
        const Words pixels = (left ? word : none) | (right ? word << 32 : none);
        std::memcpy(plane.pixels + first + 2 * input, &pixels, sizeof pixels);
      }
    }
  }
  uint64_t all = 0;
  for (int l = 0; l < kLanes; ++l) all += hits[l];
  return int64_t(all) == p.height * ceil_div(p.width, int64_t(kLanes)) * kLanes;  // each in one row of its cell
}

#else

template <class W, int kBytes>
bool in_words(RegisterBytes<kBytes>, const Params&, const Strides&, const Strides&) {
  return false;
}
inline bool unpool_words(const Params&, const PairedPlane<const uint32_t, uint32_t>&) { return false; }

#endif

}  // namespace fastvision::max_unpool2d
