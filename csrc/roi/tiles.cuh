// Backwards by tiles: one block owns the gradient of a tile of pixels for a chunk of channels of one image. It finds
// the rois that touch the tile, in order, gathers from them and writes each pixel once: no zero fill, no atomics, the
// same bits in every run.
#pragma once

#include "common/bilinear.h"
#include "common/launch.cuh"
#include "common/layout.h"
#include "roi/pooled_axis.h"

namespace fastvision::roi {

constexpr int kBlock = 256;
constexpr int kTileRows = 8, kTileColumns = 32;  // kTileRows * kTileColumns == kBlock
constexpr int kSlab = 32;                        // bins along an axis whose weights are in shared memory at a time

// Which pixels of a tile and channels of a chunk a thread sums: kRows x kColumns pixels, each for kChannels channels.
// The block is 8 groups of 32 threads. channels_last: the threads of a group are channels and share its columns;
// otherwise they are columns, one row a group, and each sums all channels.
template <bool channels_last>
struct Mapping {
  static constexpr int kGroups = kBlock / 32;
  static constexpr int kRows = channels_last ? kTileRows : 1, kColumns = channels_last ? kTileColumns / kGroups : 1;
  static constexpr int kChannels = channels_last ? 1 : 8;
  static constexpr int kChunk = channels_last ? 32 : kChannels;  // channels a block

  FV_DEVICE static int row(int r) { return channels_last ? r : int(threadIdx.x) / 32; }
  FV_DEVICE static int column(int c) {
    return channels_last ? int(threadIdx.x) / 32 + c * kGroups : int(threadIdx.x) % 32;
  }
  FV_DEVICE static int channel(int s) { return channels_last ? int(threadIdx.x) % 32 : s; }
};

// Whether a roi can touch pixels [low, low + length) along an axis; false for NaN.
template <class T>
FV_DEVICE bool may_touch(const SampledAxis<T>& axis, int64_t bins, int64_t low, int64_t length) {
  const T end = axis.start + axis.bin * T(bins);
  // samples are within rounding of [start, end], and a border's value reaches a pixel further
  const T slack = 2 + 8 * kEpsilon<T> * maximum(std::fabs(axis.start), std::fabs(end));
  return maximum(axis.start, end) + slack >= T(low) && minimum(axis.start, end) - slack <= T(low + length);
}

template <class T>
FV_DEVICE bool may_touch(const PooledAxis<T>& axis, int64_t, int64_t low, int64_t length) {
  const PixelRange all = axis.extent();
  return all.low < low + length && all.high > low;
}

// weights [bins, length]: bins [first, first + bins) of an axis at pixels [low, low + length). One thread a bin.
template <class Axis, class T>
FV_DEVICE void restrict_taps(const Axis& axis, int64_t first, int bins, int64_t low, int length, T* weights) {
  for (int b = threadIdx.x; b < bins; b += kBlock) {
    for (int e = 0; e < length; ++e) weights[b * length + e] = 0;
    for_each_tap(axis, first + b, [&](int64_t pixel, T weight) {
      if (pixel >= low && pixel < low + length) weights[b * length + pixel - low] += weight;
    });
  }
}

// body(k), by all threads of the block together, for each roi k < count with touches(k), in order.
template <class Touches, class Body>
FV_DEVICE void for_each_touching(int64_t count, const Touches& touches, const Body& body) {
  FV_SHARED(int64_t, touching, [kBlock]);
  FV_SHARED(int, warp_counts, [kBlock / 32]);
  const int t = threadIdx.x, warp = t / 32;
  for (int64_t base = 0; base < count; base += kBlock) {
    // rois [base, base + kBlock) that touch this tile, compacted in order
    const bool mine = base + t < count && touches(base + t);
    const unsigned votes = __ballot_sync(0xffffffffu, mine);
    if (t % 32 == 0) warp_counts[warp] = __popc(votes);
    __syncthreads();
    int position = __popc(votes & ((1u << (t % 32)) - 1)), found = 0;
    for (int w = 0; w < kBlock / 32; ++w) {
      if (w < warp) position += warp_counts[w];
      found += warp_counts[w];
    }
    if (mine) touching[position] = base + t;
    __syncthreads();
    for (int f = 0; f < found; ++f) body(touching[f]);
    __syncthreads();
  }
}

// What a thread has summed -> pixels from (y0, x0) and channels from c0 of one image.
template <class Map, class T, class S>
FV_DEVICE void store_tile(const T (&sums)[Map::kRows][Map::kColumns][Map::kChannels], S* map, const Strides& step,
                          int64_t y0, int64_t height, int64_t x0, int64_t width, int64_t c0, int64_t channels) {
#pragma unroll
  for (int r = 0; r < Map::kRows; ++r) {
#pragma unroll
    for (int x = 0; x < Map::kColumns; ++x) {
      const int64_t row = y0 + Map::row(r), column = x0 + Map::column(x);
      if (row >= height || column >= width) continue;
#pragma unroll
      for (int s = 0; s < Map::kChannels; ++s) {
        const int64_t c = c0 + Map::channel(s);
        if (c < channels) map[c * step.c + row * step.h + column * step.w] = static_cast<S>(sums[r][x][s]);
      }
    }
  }
}

constexpr int kOwnedTile = 8;        // pixels along each axis
constexpr int kOwnedChannels = 128;  // a block, one a thread

// The other way to sum a tile, where the pixels a bin reads are few or scattered: each thread owns a channel of the
// tile in shared memory and adds to any of its pixels.
template <class T>
struct OwnedTile {
  T* sums;  // [kOwnedTile * kOwnedTile, kOwnedChannels]
  int64_t y0, x0;

  static constexpr size_t kBytes = size_t(kOwnedTile) * kOwnedTile * kOwnedChannels * sizeof(T);

  FV_DEVICE void clear() {
    for (int e = 0; e < kOwnedTile * kOwnedTile; ++e) sums[e * kOwnedChannels + threadIdx.x] = 0;
  }
  FV_DEVICE bool has(int64_t y, int64_t x) const {
    return y >= y0 && y < y0 + kOwnedTile && x >= x0 && x < x0 + kOwnedTile;
  }
  FV_DEVICE void add(int64_t y, int64_t x, T value) {
    if (has(y, x)) sums[((y - y0) * kOwnedTile + x - x0) * kOwnedChannels + threadIdx.x] += value;
  }

  // By all threads: the channels from c0 on of one image.
  template <class S>
  FV_DEVICE void store(S* map, const Strides& step, int64_t height, int64_t width, int64_t c0, int64_t channels) const {
    __syncthreads();
    for (int e = threadIdx.x; e < kOwnedTile * kOwnedTile * kOwnedChannels; e += kOwnedChannels) {
      // neighbouring threads write neighbouring elements in either format
      const bool interleaved = step.c == 1;
      const int channel = interleaved ? e % kOwnedChannels : e / (kOwnedTile * kOwnedTile);
      const int pixel = interleaved ? e / kOwnedChannels : e % (kOwnedTile * kOwnedTile);
      const int64_t y = y0 + pixel / kOwnedTile, x = x0 + pixel % kOwnedTile;
      if (c0 + channel < channels && y < height && x < width) {
        map[(c0 + channel) * step.c + y * step.h + x * step.w] = static_cast<S>(sums[pixel * kOwnedChannels + channel]);
      }
    }
  }
};

}  // namespace fastvision::roi
