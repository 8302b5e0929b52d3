// Loops over interleaved planes on the CPU: rows of kLanes neighbouring values, a lane of sums for each, so that they
// vectorise whatever the number of channels. One plane fills a row with 128 of its pixels, 64 channels with 2 pixels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parallel.h"
#include "style/planes.h"

namespace fastvision::style {

constexpr int64_t kLanes = 128;  // values of a row
constexpr int64_t kRows = 32;    // of a block, which stays in the first cache: 16 KiB of float
constexpr int64_t kBlocks = 8;   // of a chunk

inline int64_t pixels_of_row(int64_t channels) { return std::max(kLanes / channels, int64_t(1)); }

inline int64_t pixels_of_chunk(int64_t channels) {
  return kBlocks * kRows * pixels_of_row(std::max(channels, int64_t(1)));
}

// Channels [first, first + channels) of `pixels` pixels side by side: a row. All channels, if pixels > 1.
struct Tile {
  int64_t first, channels, pixels;

  int64_t block() const { return kRows * pixels; }
};

template <class Visit>
[[gnu::always_inline]] inline void for_each_tile(int64_t channels, const Visit& visit) {
  for (int64_t first = 0; first < channels; first += kLanes) {
    visit(Tile{first, std::min(channels - first, kLanes), pixels_of_row(channels)});
  }
}

// visit(offset of the row, values in it); the last row may have fewer pixels
template <class Visit>
[[gnu::always_inline]] inline void for_each_row(int64_t pixels, int64_t channels, const Tile& tile,
                                                const Visit& visit) {
  for (int64_t p = 0; p < pixels; p += tile.pixels) {
    visit(p * channels, std::min(tile.pixels, pixels - p) * tile.channels);
  }
}

// [pixels, channels] -> the sums over pixels in the first `channels` lanes, by halves: always in the same order.
template <class T>
[[gnu::always_inline]] inline void fold(T* lanes, const Tile& tile) {
  for (int64_t pixels = tile.pixels; pixels > 1;) {
    const int64_t half = (pixels + 1) / 2, moved = half * tile.channels, count = (pixels - half) * tile.channels;
#pragma GCC ivdep
    for (int64_t e = 0; e < count; ++e) lanes[e] += lanes[moved + e];
    pixels = half;
  }
}

// The first `channels` lanes -> all pixels of the row, doubling what is filled.
template <class T>
[[gnu::always_inline]] inline void spread(T* lanes, const Tile& tile) {
  const int64_t all = tile.channels * tile.pixels;
  for (int64_t filled = tile.channels; filled < all; filled *= 2) {
    const int64_t count = std::min(filled, all - filled);
#pragma GCC ivdep
    for (int64_t e = 0; e < count; ++e) lanes[filled + e] = lanes[e];
  }
}

// measure(group, chunk) for all chunks of a group, then finish(group), then write(group, chunk). Whole groups to each
// thread where that keeps all threads busy: neighbouring planes of the output then are one thread's, and a plane is
// still in its cache when it is read again, the latest chunk first. Else each step for all chunks of all groups.
template <class Measure, class Finish, class Write>
void in_passes(const Groups& groups, const Measure& measure, const Finish& finish, const Write& write) {
  const int64_t threads = thread_count(), chunks = groups.chunks;
  if (groups.count % threads == 0 || groups.count >= 4 * threads) {
    constexpr int64_t kValuesOfThread = 16384;  // fewer are not worth a thread
    const int64_t grain = std::max(kValuesOfThread / (groups.pixels * groups.channels), int64_t(1));
    parallel_for(groups.count, grain, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        for (int64_t c = 0; c < chunks; ++c) measure(g, c);
        finish(g);
        for (int64_t c = chunks; c-- > 0;) write(g, c);
      }
    });
    return;
  }
  const auto for_each_chunk = [&](const auto& body) {
    parallel_for(groups.count * chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i / chunks, i % chunks);
    });
  };
  for_each_chunk(measure);
  for (int64_t g = 0; g < groups.count; ++g) finish(g);
  for_each_chunk(write);
}

}  // namespace fastvision::style
