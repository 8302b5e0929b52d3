// Transposed convolutions whose windows do not overlap (kernel = stride), on the CPU: what each of the kh kw places of
// a window gets is a matrix product [pixels, channels] x [channels, outputs]. Its operands, as gemm::multiply takes
// them: a tile is as many pixels as gemm::Tile has rows, and as many outputs as it has columns.
#pragma once

#include <algorithm>

#include "common/gemm.h"
#include "common/host_device.h"
#include "common/layout.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/transpose.h"

namespace fastvision::windows {

constexpr int64_t kMostPixels = 240;  // of a piece of a map, whose channels stay in the L2 cache

// A weight [channels, outputs, places] as panels [places][blocks of outputs][channels][outputs of a tile], zeros past
// the last output.
template <class T>
class Panels {
 public:
  template <class S>
  Panels(int64_t channels, int64_t outputs, int64_t places, const S* weight)
      : columns_(gemm::tile<T>().columns),
        channels_(channels),
        blocks_(ceil_div(outputs, columns_)),
        data_(size_t(places * blocks_ * channels * columns_)) {
    constexpr int64_t kGrain = 1 << 16;                  // numbers that are worth a thread
    const int64_t step = blocks_ * channels * columns_;  // from one place to the next
    parallel_for(blocks_, ceil_div(kGrain, places * columns_ * channels + 1), [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * columns_, some = std::min(columns_, outputs - first);
        for (int64_t c = 0; c < channels; ++c) {
          T* target = panel(0, block) + c * columns_;
          transpose(weight + (c * outputs + first) * places, places, some, places, target, step);
          for (int64_t place = 0; place < places; ++place) {
            std::fill(target + place * step + some, target + place * step + columns_, T(0));
          }
        }
      }
    });
  }

  int64_t blocks() const { return blocks_; }
  T* panel(int64_t place, int64_t block) const {
    return data_.data() + (place * blocks_ + block) * channels_ * columns_;
  }

 private:
  int64_t columns_, channels_, blocks_;
  Buffer<T> data_;
};

// Pixels [begin, end) of one map.
struct Piece {
  int64_t map, begin, end;
};

// How maps of so many pixels are cut: enough pieces for every thread, each but the last of whole tiles.
struct Pieces {
  int64_t pixels, length, each;  // pixels of a piece, pieces of a map

  Pieces(int64_t maps, int64_t map_pixels, int64_t rows) : pixels(map_pixels) {
    const int64_t wanted = std::max(ceil_div(pixels, kMostPixels), ceil_div(thread_count(), maps));
    length = ceil_div(ceil_div(pixels, wanted), rows) * rows;
    each = ceil_div(pixels, length);
  }

  Piece operator[](int64_t i) const {
    const int64_t begin = i % each * length;
    return {i / each, begin, std::min(begin + length, pixels)};
  }
};

// Of planes whose pixels lie evenly.
template <int kTogether, class T, class S>
[[gnu::always_inline]] inline void pack_planes(int64_t channels, const S* map, int64_t step, const Piece& piece,
                                               T* pixels) {
  for (int64_t c = 0; c < channels; ++c, map += step, pixels += kTogether) {
    T* __restrict target = pixels;
    int64_t i = piece.begin;
    for (; i + kTogether <= piece.end; i += kTogether, target += channels * kTogether) {
      for (int l = 0; l < kTogether; ++l) target[l] = static_cast<T>(map[i + l]);
    }
    if (i == piece.end) continue;
    for (int l = 0; l < kTogether; ++l) target[l] = i + l < piece.end ? static_cast<T>(map[i + l]) : T(0);
  }
}

// A piece of maps [.., channels, H, width] of either format, read in place -> [tiles, channels, pixels of a tile];
// pixels past the last are zero.
template <class T, class S>
[[gnu::always_inline]] inline void pack_pixels(int64_t channels, int64_t width, int64_t together, const S* maps,
                                               const Strides& step, const Piece& piece, T* pixels) {
  const S* map = maps + piece.map * step.n;
  if (step.w == 1 && step.h == width && step.c != 1) {
    // the rows of gemm::tile on each instruction set
    if (together == 8) return pack_planes<8>(channels, map, step.c, piece, pixels);
    if (together == 6) return pack_planes<6>(channels, map, step.c, piece, pixels);
    if (together == 4) return pack_planes<4>(channels, map, step.c, piece, pixels);
  }
  int64_t offset[gemm::kMostRows] = {};
  for (int64_t first = piece.begin; first < piece.end; first += together, pixels += channels * together) {
    const int64_t count = std::min(together, piece.end - first);
    if (step.c == 1 && step.h == width * step.w) {  // pixels lie evenly
      if (count < together) std::fill_n(pixels, channels * together, T(0));
      transpose(map + first * step.w, step.w, count, channels, pixels, together);
      continue;
    }
    for (int64_t i = 0; i < count; ++i) offset[i] = (first + i) / width * step.h + (first + i) % width * step.w;
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < count; ++i) pixels[c * together + i] = static_cast<T>(map[c * step.c + offset[i]]);
      for (int64_t i = count; i < together; ++i) pixels[c * together + i] = T(0);
    }
  }
}

}  // namespace fastvision::windows
