// Loops over interleaved planes on the CPU: rows of neighbouring values, a lane of sums for each, so that they fill
// vectors whatever the number of channels. One plane fills a row with 8 to 64 of its pixels, 64 channels with 2 pixels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parallel.h"
#include "common/simd.h"
#include "common/stream.h"
#include "style/planes.h"

namespace fastvision::style {

constexpr int64_t kLanes = 128;   // values of a row, at most
constexpr int64_t kRows = 32;     // of a block, which stays in the first cache: up to 16 KiB of float
constexpr int64_t kBlocks = 8;    // of a chunk, and more of smaller blocks
constexpr int64_t kAhead = 2048;  // values between what is read and what is asked for

// Neighbouring registers whose sums are held at once: as many as there are registers for.
template <int kBytes>
constexpr int kWide = kBytes == 64 ? 4 : 2;

// As many as fit into a row, in whole vectors of 16 if some do; of one plane those whose sums are held at once, so that
// it is read from one end to the other.
template <class T, int kBytes>
int64_t pixels_of_row(int64_t channels) {
  if (channels == 1) return kWide<kBytes> * Vector<T, kBytes>::kPartLanes;
  for (int64_t pixels = kLanes / channels; pixels > 1; --pixels) {
    if (pixels * channels % 16 == 0) return pixels;
  }
  return std::max(kLanes / channels, int64_t(1));
}

inline int64_t pixels_of_chunk(int64_t channels) {
  return kBlocks * kRows * std::max(kLanes / std::max(channels, int64_t(1)), int64_t(1));
}

// Channels [first, first + channels) of `pixels` pixels side by side: a row. All channels, if pixels > 1.
struct Tile {
  int64_t first, channels, pixels;
  int64_t block = pixels;  // that sums are taken of at once
};

// T: of the sums
template <class T, int kBytes, class Visit>
[[gnu::always_inline]] inline void for_each_tile(RegisterBytes<kBytes>, int64_t channels, const Visit& visit) {
  const int64_t pixels = pixels_of_row<T, kBytes>(channels);
  const int64_t block = kRows * (channels == 1 ? kLanes / 2 : pixels);  // of one plane however short its rows are
  // of about as many channels each, in whole vectors
  const int64_t width = ceil_div(ceil_div(channels, ceil_div(channels, kLanes)), int64_t(16)) * 16;
  for (int64_t first = 0; first < channels; first += width) {
    visit(Tile{first, std::min(channels - first, width), pixels, block});
  }
}

// visit(offset of its first value, how many there are, lane(e) of each) for rows, of which the last may have fewer
// pixels; for kAhead pixels at once where one lane is as good as another.
template <class Visit>
[[gnu::always_inline]] inline void for_each_row(int64_t pixels, int64_t channels, const Tile& tile,
                                                const Visit& visit) {
  if (channels == 1) {
    for (int64_t p = 0; p < pixels; p += kAhead) {
      visit(p, std::min(kAhead, pixels - p), [](int64_t) { return 0; });
    }
    return;
  }
  for (int64_t p = 0; p < pixels; p += tile.pixels) {
    visit(p * channels, std::min(tile.pixels, pixels - p) * tile.channels, [](int64_t e) { return e; });
  }
}

// Asks for what is kAhead values further on. Processors follow a stream by themselves, but not into its next page of
// 4 KiB, and not well if it is read under a mask.
template <class S>
[[gnu::always_inline]] inline void prefetch_ahead(const S* stream) {
  __builtin_prefetch(stream + kAhead);
}
// The same for `values` of them.
template <class S>
[[gnu::always_inline]] inline void prefetch_ahead(const S* stream, int64_t values) {
  for (int64_t e = 0; e < values; e += 64 / int64_t(sizeof(S))) prefetch_ahead(stream + e);
}

// Values that `write_row` writes one after the other, all of them from the start of a line on if they are whole lines.
inline int64_t run_of(const Groups& groups) {
  const int64_t channels = groups.channels;
  if (channels == 1) return groups.pixels;
  if (channels > kLanes) return channels % 16 == 0 ? 16 : 1;  // tiles of whole vectors, from pixel to pixel
  return pixels_of_row<float, 32>(channels) * channels;
}

// out[e] = at(registers, e): of float16 a register at a time, as compilers convert those in many steps, of others one
// by one, as they vectorise that better.
template <class T, int kBytes, class S, class At>
[[gnu::always_inline]] inline void write_row(int64_t values, const At& at, const Stream& stream, S* __restrict out) {
  if constexpr (std::is_same_v<S, T>) {
    if (stream) return stream.write<kBytes>(values, at, out);
  }
  prefetch_ahead(out, values);
  int64_t e = 0;
  if constexpr (std::is_same_v<S, torch::headeronly::Half>) {
    using Registers = Vector<T, kBytes>;
    for (; e + Registers::kPartLanes <= values; e += Registers::kPartLanes) {
      Registers::store_part(out + e, at(Registers{}, e));
    }
  }
  for (; e < values; ++e) out[e] = static_cast<S>(at(Single<T>{}, e));
}

// Sums over `rows` rows, row_step values apart, in kCount neighbouring registers from `lane` on.
template <class R, int kCount, int kSums, class T, class Line, class Add>
[[gnu::always_inline]] inline void sum_columns(int64_t rows, int64_t row_step, int64_t lane, T (*sums)[kLanes],
                                               const Line& line, const Add& add) {
  using V = typename R::Part;
  V totals[kCount][kSums] = {};
  decltype(line(R{}, lane)) lines[kCount];
#pragma GCC unroll 4
  for (int v = 0; v < kCount; ++v) lines[v] = line(R{}, lane + v * R::kPartLanes);
  for (int64_t r = 0, at = lane; r < rows; ++r, at += row_step) {
#pragma GCC unroll 4
    for (int v = 0; v < kCount; ++v) add(R{}, lines[v], at + v * R::kPartLanes, totals[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < kCount; ++v) {
#pragma GCC unroll 2
    for (int k = 0; k < kSums; ++k) *reinterpret_cast<V*>(sums[k] + lane + v * R::kPartLanes) = totals[v][k];
  }
}

// sums [kSums, values]: over rows, in registers as long as there are neighbours enough. The last register may cover
// lanes of the one before, and comes to the same sums.
template <int kSums, int kBytes, class T, class Line, class Add>
[[gnu::always_inline]] inline void sum_rows(int64_t rows, int64_t row_step, int64_t values, T (*sums)[kLanes],
                                            const Line& line, const Add& add) {
  using Registers = Vector<T, kBytes>;
  constexpr int64_t kStep = Registers::kPartLanes;
  constexpr int64_t kWideStep = kWide<kBytes> * kStep;
  int64_t lane = 0;
  for (; lane + kWideStep <= values; lane += kWideStep) {
    sum_columns<Registers, kWide<kBytes>, kSums>(rows, row_step, lane, sums, line, add);
  }
  for (; lane < values && values >= kStep; lane += kStep) {
    sum_columns<Registers, 1, kSums>(rows, row_step, std::min(lane, values - kStep), sums, line, add);
  }
  for (; lane < values; ++lane) sum_columns<Single<T>, 1, kSums>(rows, row_step, lane, sums, line, add);
}

// Sums over the pixels of a block, in lanes: line(registers, lane) is what add(registers, line, offset, sums) needs to
// know of lanes from `lane` on when it adds to kSums sums what the values from `offset` on come to.
template <int kSums, int kBytes, class T, class Line, class Add>
[[gnu::always_inline]] inline void sum_block(RegisterBytes<kBytes>, int64_t pixels, int64_t channels, const Tile& tile,
                                             T (*sums)[kLanes], const Line& line, const Add& add) {
  const int64_t rows = pixels / tile.pixels, rest = pixels % tile.pixels * tile.channels;
  sum_rows<kSums, kBytes>(rows, tile.pixels * channels, tile.pixels * tile.channels, sums, line, add);
  if (rest == 0) return;
  T others[kSums][kLanes];
  const int64_t first = rows * tile.pixels * channels;
  sum_rows<kSums, kBytes>(1, 0, rest, others, line,
                          [&](auto registers, const auto& lines, int64_t at, auto* totals)
                              __attribute__((always_inline)) { add(registers, lines, first + at, totals); });
  for (int k = 0; k < kSums; ++k) {
    for (int64_t e = 0; e < rest; ++e) sums[k][e] += others[k][e];
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

// measure(group, chunk) for all chunks of a group, then finish(group), then write(group, chunk, stream). Whole groups
// to each thread where that keeps all threads busy: neighbouring planes of the output then are one thread's, and a
// plane is still in its cache when it is read again, the latest chunk first. Else each step for all chunks of all
// groups. maps: of numbers of type S that are read and written
template <class S, class Measure, class Finish, class Write>
void in_passes(const Groups& groups, int64_t maps, const Measure& measure, const Finish& finish, const Write& write) {
  constexpr int64_t kSize = int64_t(sizeof(S));
  const int64_t bytes = maps * groups.count * groups.channels * groups.pixels * kSize, run = run_of(groups) * kSize;
  const int64_t threads = thread_count(), chunks = groups.chunks;
  if (groups.count % threads == 0 || groups.count >= 4 * threads) {
    constexpr int64_t kValuesOfThread = 16384;  // fewer are not worth a thread
    const int64_t grain = std::max(kValuesOfThread / (groups.pixels * groups.channels), int64_t(1));
    parallel_for(groups.count, grain, [&](int64_t begin, int64_t end) {
      const Stream stream(bytes, run);
      for (int64_t g = begin; g < end; ++g) {
        for (int64_t c = 0; c < chunks; ++c) measure(g, c);
        finish(g);
        for (int64_t c = chunks; c-- > 0;) write(g, c, stream);
      }
    });
    return;
  }
  const auto for_each_chunk = [&](const auto& body) {
    parallel_for(groups.count * chunks, 1, [&](int64_t begin, int64_t end) {
      const Stream stream(bytes, run);
      for (int64_t i = begin; i < end; ++i) body(i / chunks, i % chunks, stream);
    });
  };
  for_each_chunk([&](int64_t g, int64_t c, const Stream&) { measure(g, c); });
  for (int64_t g = 0; g < groups.count; ++g) finish(g);
  for_each_chunk(write);
}

}  // namespace fastvision::style
