// Both gradients of a transposed convolution as matrix products with patches of the output's gradient, on the CPU.
#pragma once

#include <algorithm>

#include "common/parallel.h"
#include "common/simd.h"
#include "upsample/patches.h"

namespace fastvision::conv_transpose2d {

constexpr int64_t kDepth = 256;  // taps or positions that are multiplied at once: 32 KB of patches
static_assert(kDepth <= Patches<float, float>::kMostPositions);
constexpr int64_t kTasksOfThread = 4;

// How channels of a group are cut into tiles, 21 into 7, 7 and 7: small tiles wait for their own sums.
struct ChannelTiles {
  int64_t channels, count, rows;

  ChannelTiles(int64_t all, int64_t most) : channels(all), count(ceil_div(all, most)), rows(ceil_div(all, count)) {}
  int64_t of(int64_t tile) const { return std::min(rows, channels - tile * rows); }
};

// Sums of `tile`s [begin, end) over `depth` with `columns` [depth, tile columns]: out[tile * rows + ..][columns].
// packed: [tiles][packed_depth][rows]
template <class T>
void multiply_tiles(const ChannelTiles& tiles, int64_t begin, int64_t end, const T* packed, int64_t packed_depth,
                    int64_t depth, const T* columns, bool accumulate, T* out, int64_t out_step) {
  const int64_t width = gemm::tile<T>().columns;
  for (int64_t tile = begin; tile < end; ++tile) {
    gemm::multiply<T>(tiles.of(tile), {packed + tile * packed_depth * tiles.rows, tiles.rows, columns, width, depth,
                                       out + (tile - begin) * tiles.rows * out_step, out_step, accumulate});
  }
}

// input [.., channels, y.in, x.in], laid out densely either way, from grad and weight [channels, outputs / groups, ..].
template <class T, class S>
void input_gradient_products(const Params& p, const S* grad, const Strides& in, const S* weight, S* output,
                             const Strides& out) {
  const int64_t width = gemm::tile<T>().columns, channels = p.group_channels();
  const ChannelTiles tiles(channels, gemm::tile<T>().rows);
  const Patches<T, S> patches(p, grad, in);
  const int64_t taps = patches.taps(), size = tiles.count * tiles.rows * taps;
  Buffer<T> weights(size_t(p.groups * size));  // [groups][tiles][taps][rows]
  parallel_for(p.groups * tiles.count, ceil_div(int64_t(1) << 14, tiles.rows * taps), [&](int64_t begin, int64_t end) {
    vectorized([&]() __attribute__((always_inline)) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / tiles.count, tile = i % tiles.count;
        const S* source = weight + (group * channels + tile * tiles.rows) * taps;
        patches.turn_weights(source, tiles.of(tile), weights.data() + i * tiles.rows * taps, tiles.rows);
      }
    });
  });
  const int64_t plane = p.y.in * p.x.in, positions = p.batch * plane, wanted = kTasksOfThread * thread_count();
  const int64_t even = ceil_div(ceil_div(positions * p.groups, wanted), width) * width;
  const int64_t block = std::clamp(even, width, Patches<T, S>::kMostPositions), blocks = ceil_div(positions, block);
  // few positions: the channels are shared out too, and patches laid out for each part
  const int64_t parts = std::clamp(ceil_div(2 * thread_count(), blocks * p.groups), int64_t(1), tiles.count);
  const int64_t part = ceil_div(tiles.count, parts);
  parallel_workers(p.groups * blocks * parts, [&](const auto& next) {
    Buffer<T> sums(size_t(part * tiles.rows * block)), columns(size_t(kDepth * block)),
        scratch(size_t(patches.scratch(kDepth)));
    for (int64_t item = next(); item < p.groups * blocks * parts; item = next()) {
      const int64_t group = item / parts / blocks, first = item / parts % blocks * block;
      const int64_t begin = item % parts * part, end = std::min(tiles.count, begin + part);
      if (begin >= end) continue;
      const int64_t last = std::min(positions, first + block);
      for (int64_t t = 0; t < taps; t += kDepth) {
        const int64_t depth = std::min(kDepth, taps - t);
        vectorized([&]() __attribute__((always_inline)) {
          patches.of_positions(group, first, last - first, t, t + depth, columns.data(), scratch.data());
        });
        const T* packed = weights.data() + group * size + t * tiles.rows;
        for (int64_t q = 0; q < last - first; q += width) {
          multiply_tiles(tiles, begin, end, packed, taps, depth, columns.data() + q * depth, t > 0, sums.data() + q,
                         block);
        }
      }
      const int64_t channel = begin * tiles.rows, some = std::min(channels, end * tiles.rows) - channel;
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t q = first; q < last;) {  // positions of one image
          const int64_t n = q / plane, count = std::min(last, (n + 1) * plane) - q;
          S* target = output + n * out.n + (group * channels + channel) * out.c + q % plane * out.w;
          const T* from = sums.data() + q - first;
          if (out.w == 1) {
            for (int64_t c = 0; c < some; ++c) copy(from + c * block, count, target + c * out.c);
          } else {
            transpose(from, block, some, count, target, out.w);
          }
          q += count;
        }
      });
    }
  });
}

// weight [channels, outputs / groups, y.kernel, x.kernel], from grad and input.
//
// Positions are added up in parts that depend on sizes alone, so that results do not depend on the number of threads.
template <class T, class S>
void weight_gradient_products(const Params& p, const S* grad, const Strides& in, const S* input,
                              const Strides& features, S* output) {
  const int64_t width = gemm::tile<T>().columns, channels = p.group_channels();
  const ChannelTiles tiles(channels, gemm::tile<T>().rows);
  const Patches<T, S> patches(p, grad, in);
  const int64_t taps = patches.taps(), plane = p.y.in * p.x.in, positions = p.batch * plane;
  constexpr int64_t kLeastPart = 4096, kMostSums = 1 << 20;
  const int64_t most = std::max<int64_t>(1, kMostSums / (p.channels * taps));
  const int64_t parts = std::clamp(positions / kLeastPart, int64_t(1), most);
  const int64_t part = ceil_div(ceil_div(positions, parts), kDepth) * kDepth;
  const int64_t panels = ceil_div(taps, width), step = panels * width;
  const int64_t shares = std::max<int64_t>(1, 2 * thread_count() / (parts * p.groups));
  const int64_t block = ceil_div(panels, shares), blocks = ceil_div(panels, block);
  const int64_t size = tiles.count * tiles.rows * step;
  Buffer<T> sums(size_t(parts * p.groups * size));  // [parts][groups][channels][taps]
  parallel_workers(parts * p.groups * blocks, [&](const auto& next) {
    Buffer<T> packed(size_t(tiles.count * kDepth * tiles.rows)), columns(size_t(kDepth * width)),
        scratch(size_t(patches.scratch(kDepth)));
    for (int64_t item = next(); item < parts * p.groups * blocks; item = next()) {
      const int64_t panel = item % blocks * block, group = item / blocks % p.groups, at = item / blocks / p.groups;
      const int64_t begin = std::min(positions, at * part), end = std::min(positions, begin + part);
      T* target = sums.data() + (at * p.groups + group) * size;
      const int64_t last_panel = std::min(panels, panel + block);
      if (begin == end && panel == 0) std::fill_n(target, size, T(0));
      for (int64_t q = begin; q < end; q += kDepth) {
        const int64_t depth = std::min(kDepth, end - q);
        vectorized([&]() __attribute__((always_inline)) {
          for (int64_t done = 0; done < depth;) {  // positions of one image
            const int64_t n = (q + done) / plane, count = std::min(depth - done, (n + 1) * plane - q - done);
            for (int64_t tile = 0; tile < tiles.count; ++tile) {
              const S* source = input + n * features.n + (group * channels + tile * tiles.rows) * features.c +
                                (q + done) % plane * features.w;
              T* to = packed.data() + (tile * depth + done) * tiles.rows;
              if (features.c == 1 && features.w != 1) {
                for (int64_t l = 0; l < count; ++l) copy(source + l * features.w, tiles.of(tile), to + l * tiles.rows);
              } else {
                transpose(source, features.c, tiles.of(tile), count, to, tiles.rows);
              }
            }
            done += count;
          }
        });
        for (int64_t i = panel; i < last_panel; ++i) {
          vectorized([&]() __attribute__((always_inline)) {
            patches.of_taps(group, q, q + depth, i * width, std::min(width, taps - i * width), columns.data(),
                            scratch.data());
          });
          multiply_tiles(tiles, 0, tiles.count, packed.data(), depth, depth, columns.data(), q > begin,
                         target + i * width, step);
        }
      }
    }
  });
  parallel_for(p.channels, ceil_div(int64_t(1) << 14, taps * parts), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      T* total = sums.data() + c / channels * size + c % channels * step;
      for (int64_t at = 1; at < parts; ++at) {
        const T* more = total + at * p.groups * size;
        for (int64_t t = 0; t < taps; ++t) total[t] += more[t];
      }
      vectorized([&]() __attribute__((always_inline)) { patches.return_weights(total, output + c * taps); });
    }
  });
}

}  // namespace fastvision::conv_transpose2d
