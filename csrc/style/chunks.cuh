// A block of threads on a chunk of interleaved planes: threads along pixels where a group is one plane, 32 along
// channels where they are interleaved.
#pragma once

#include "common/launch.cuh"
#include "style/planes.h"

namespace fastvision::style {

constexpr int kThreads = 128;
constexpr int kSideBySide = 32;          // channels of a block
constexpr int64_t kPixelsOfThread = 64;  // of a chunk

FV_HOST_DEVICE int channels_of_block(int64_t channels) { return channels > 1 ? kSideBySide : 1; }

inline int64_t pixels_of_chunk(int64_t channels) { return kPixelsOfThread * kThreads / channels_of_block(channels); }

// Groups x chunks along x, channels along y.
inline LaunchShape chunk_shape(const Groups& groups) {
  return {dim3(blocks_for(groups.count * groups.chunks, 1),
               blocks_for(groups.channels, channels_of_block(groups.channels))),
          kThreads};
}

// A warp a plane.
inline LaunchShape plane_shape(const Groups& groups) {
  return {blocks_for(groups.count * groups.channels, kThreads / kWarp), kThreads};
}

// What the lane `half` further has, for a sum over a warp in lane 0.
FV_DEVICE double from_later_lane(double value, int half) { return __shfl_down_sync(0xffffffffu, value, half); }

// What a thread of a plane_shape works on: every kWarp-th chunk of a plane.
struct PlaneThread {
  int64_t plane;
  int lane;
  bool any;

  FV_DEVICE explicit PlaneThread(const Groups& groups)
      : plane(int64_t(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp),
        lane(int(threadIdx.x) % kWarp),
        any(plane < groups.count * groups.channels) {}
  FV_DEVICE int64_t first(const Groups& groups) const { return any ? lane : groups.chunks; }
};

// What a thread of a chunk_shape works on: one channel, every `slots`-th pixel of a chunk.
struct ChunkThread {
  int64_t group, chunk, channel;
  int slot, slots;
  int64_t first;  // value of the group: pixel 0 of the chunk in this channel

  FV_DEVICE explicit ChunkThread(const Groups& groups) {
    const int channels = channels_of_block(groups.channels);
    group = int64_t(blockIdx.x) / groups.chunks, chunk = int64_t(blockIdx.x) % groups.chunks;
    channel = int64_t(blockIdx.y) * channels + int(threadIdx.x) % channels;
    slot = int(threadIdx.x) / channels, slots = kThreads / channels;
    first = groups.first_pixel(chunk) * groups.channels + channel;
  }

  // visit(place of a value relative to `first`); nothing for a thread past the last channel
  template <class Visit>
  FV_DEVICE void for_each_value(const Groups& groups, const Visit& visit) const {
    if (channel >= groups.channels) return;
    const int64_t pixels = groups.pixels_of(chunk);
#pragma unroll 4
    for (int64_t p = slot; p < pixels; p += slots) visit(p * groups.channels);
  }
};

// The sum over the slots of each channel, for all of them; always in the same order. sums: shared, [kThreads].
FV_DEVICE double block_sum(const ChunkThread& thread, double value, double* sums) {
  const int channels = kThreads / thread.slots;
  __syncthreads();  // the sums of the last call have been read
  sums[threadIdx.x] = value;
  for (int half = kThreads / 2; half >= channels; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  __syncthreads();
  return sums[threadIdx.x % channels];
}

// Two numbers a channel for each chunk of each group: [groups, chunks, 2, channels].
FV_DEVICE void store_pair(const Groups& groups, const ChunkThread& thread, double* pairs, double first, double second) {
  double* pair = pairs + (thread.group * groups.chunks + thread.chunk) * 2 * groups.channels + thread.channel;
  pair[0] = first, pair[groups.channels] = second;
}

// The first of the two numbers; the second is `channels` further.
FV_DEVICE const double* pair_of(const Groups& groups, const double* pairs, int64_t plane, int64_t chunk) {
  const int64_t group = plane / groups.channels;
  return pairs + (group * groups.chunks + chunk) * 2 * groups.channels + plane % groups.channels;
}

}  // namespace fastvision::style
