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

// The first `channels` lanes -> all pixels of the row.
template <class T>
[[gnu::always_inline]] inline void spread(T* lanes, const Tile& tile) {
  for (int64_t e = tile.channels; e < tile.channels * tile.pixels; ++e) lanes[e] = lanes[e - tile.channels];
}

// measure(group, chunk) for all chunks of a group, then finish(group), then write(group, chunk). Whole groups to each
// thread where that keeps all threads busy: neighbouring planes of the output then are one thread's, and a plane is
// still in its cache when it is read again, the latest chunk first.
template <class Measure, class Finish, class Write>
void in_passes(const Groups& groups, const Measure& measure, const Finish& finish, const Write& write) {
  const int64_t threads = thread_count();
  if (groups.count >= 8 * threads || groups.count % threads == 0) {
    parallel_for(groups.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        for (int64_t c = 0; c < groups.chunks; ++c) measure(g, c);
        finish(g);
        for (int64_t c = groups.chunks; c-- > 0;) write(g, c);
      }
    });
    return;
  }
  const auto for_each_chunk = [&](int64_t g, const auto& body) {
    parallel_for(groups.chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) body(g, c);
    });
  };
  for (int64_t g = 0; g < groups.count; ++g) {
    for_each_chunk(g, measure);
    finish(g);
    for_each_chunk(g, write);
  }
}

}  // namespace fastvision::style
