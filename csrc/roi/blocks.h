// How pooling in blocks of channels is shared out: one task is a vector of channels of one map, and perhaps only a part
// of the map's rois, where there are fewer blocks than threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parallel.h"
#include "common/simd.h"

namespace fastvision::roi {

struct Block {
  int64_t map, channel, lanes;  // channels [channel, channel + lanes)
  int64_t part, parts;          // of the map's rois
};

// Parts that keep every thread busy; 1 for sums over rois, which one thread must add up.
inline int64_t parts_for(int64_t maps, int64_t channels, int64_t lanes) {
  const int64_t blocks = std::max<int64_t>(1, maps * ((channels + lanes - 1) / lanes));
  return (thread_count() + blocks - 1) / blocks;
}

// body(RegisterBytes, block, scratch), vectorised, for every block of `lanes` channels; each thread has a Scratch of
// its own.
template <class Scratch, class Body>
void for_each_block(int64_t maps, int64_t channels, int64_t lanes, int64_t parts, const Body& body) {
  const int64_t tasks = maps * ((channels + lanes - 1) / lanes) * parts;
  parallel_workers(tasks, [&](const auto& next) {
    Scratch scratch;
    for (int64_t task = next(); task < tasks; task = next()) {
      // the maps of one block of channels in a row, so that large and small ones mix
      const int64_t channel = task / (parts * maps) * lanes;
      const Block block{task / parts % maps, channel, std::min(lanes, channels - channel), task % parts, parts};
      vectorized([&](auto bytes) __attribute__((always_inline)) { body(bytes, block, scratch); });
    }
  });
}

}  // namespace fastvision::roi
