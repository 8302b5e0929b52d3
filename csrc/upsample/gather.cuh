// The kernel of conv_transpose2d on CUDA. See conv_transpose2d_cuda.cu.
//
// A thread has outputs of one column that lie `stride` rows apart: they read the same taps (one sub-pixel phase, see
// phases.h), so a weight is read once for all of them. Where a group has several output channels, it has four of them,
// which read the same inputs; where it has one and the stride is a multiple of four, so do four neighbouring columns.
#pragma once

#include <algorithm>
#include <numeric>

#include "common/launch.cuh"
#include "common/pack.h"
#include "common/scalar.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {

constexpr int kThreads = 128;
constexpr int kMostWarps = 8;
constexpr int kMany = 4;  // output channels or columns of a thread where it has more than one

template <int kColumns>
inline constexpr int kRows = kColumns > 1 ? 4 : 8;

constexpr int64_t kMostSide = 1 << 26;  // and most of a row's numbers: indices and divisions have 32 bits

// An axis in 32 bits.
struct Line {
  int in, out, kernel, stride, padding, dilation;
  int step, shift_step;  // from a tap to the next of the same phase, and from the shift of one to that of the other

  explicit Line(const Axis& a)
      : in(int(a.in)),
        out(int(a.out)),
        kernel(int(a.kernel)),
        // the stride over a single input and the dilation of a single tap may be any number
        stride(int(std::min(a.stride, a.out + a.padding))),
        padding(int(a.padding)),
        dilation(int(std::min(a.dilation, kMostSide))),
        step(stride / std::gcd(stride, dilation)),
        shift_step(dilation / std::gcd(stride, dilation)) {}

  // The first tap of a phase; kernel or more if it has none.
  FV_DEVICE int first_tap(int phase) const {
    if (dilation == 1) return phase;
    int k = 0;
    while (k < kernel && k * dilation % stride != phase) ++k;
    return k;
  }
  // Input positions that a tap lies before the one of its output.
  FV_DEVICE int shift(int tap) const { return tap < kernel ? tap * dilation / stride : 0; }
};

// Where weights lie, in numbers, those of a chunk of outputs side by side. Neighbouring threads have neighbouring taps
// of a row, or neighbouring outputs (channels_last), and what they read should be neighbours too: wide strides have so
// many taps that each would be a cache line of its own.
struct WeightSteps {
  int64_t group, chunk, row, channel, tap;
};

// Strides in elements: those of rows and columns in 32 bits, and 0 where there is but one.
struct Steps {
  int64_t n, c;
  int h, w;

  explicit Steps(const Tensor& t) : n(t.stride(0)), c(t.stride(1)), h(step_of(t, 2)), w(step_of(t, 3)) {}
  static bool fit(const Tensor& t) { return fits(t, 2) && fits(t, 3); }

 private:
  static bool fits(const Tensor& t, int d) { return t.size(d) == 1 || t.stride(d) < kMostSide; }
  static int step_of(const Tensor& t, int d) { return t.size(d) == 1 ? 0 : int(t.stride(d)); }
};

struct Work {
  Line y, x;
  int channels, outputs, groups;  // the first two of a group
  int chunks;                     // of outputs of a group that a thread has
  int columns;                    // threads of a row, of one chunk
  int heights;                    // threads of the rows of a phase, kRows each
  Steps in, out;
  WeightSteps weight;
  bool aligned;  // outputs of four columns, which can be written at once
};

// The weights of a tap: for some outputs, or for one and the columns right of it.
template <class S, int kOutputs, int kColumns>
struct Taps {
  static_assert(kOutputs == 1 || kColumns == 1);
  Pack<S, kOutputs * kColumns> all;

  FV_DEVICE Taps(const S* at, [[maybe_unused]] int64_t step) {
    if (kColumns == 1 || step == 1) {
      all = *reinterpret_cast<const Pack<S, kOutputs * kColumns>*>(at);
    } else {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) all.of[j] = at[j * step];
    }
  }
  template <class T>
  FV_DEVICE T of(int column, int output) const {
    return static_cast<T>(all.of[column + output]);
  }
};

// What a thread computes.
struct Place {
  int chunk;  // of all groups
  int column, phase, height;
  bool any;
};

// Blocks along x cover columns and then rows (channels_last: chunks of outputs before both, so that neighbouring
// threads write neighbouring numbers either way); along y the chunks.
template <bool kChannelsLast>
FV_DEVICE Place place_of_thread(const Work& work) {
  unsigned place = blockIdx.x * kThreads + threadIdx.x, chunk = blockIdx.y;
  if (kChannelsLast) {
    const unsigned chunks = unsigned(work.chunks) * unsigned(work.groups);
    chunk = place % chunks, place /= chunks;
  }
  const int item = int(place / unsigned(work.columns)), column = int(place % unsigned(work.columns));
  return {int(chunk), column, item % work.y.stride, item / work.y.stride, item < work.heights * work.y.stride};
}

template <int kOutputs, bool kChannelsLast>
inline constexpr bool kByWarps = kChannelsLast && kOutputs > 1;

// Many outputs in channels_last: a warp has chunks of outputs, and columns, that are written side by side, and the
// other warps of the block have other rows of the same phase. They read the same weights, which strides of 32 have so
// many of that reading them from L2 is most of what there is to wait for.
FV_DEVICE Place place_of_warp(const Work& work) {
  const unsigned chunks = unsigned(work.chunks) * unsigned(work.groups), warps = blockDim.x / kWarp;
  const unsigned tiles = ceil_div(chunks * unsigned(work.columns), unsigned(kWarp));
  const unsigned blocks = ceil_div(unsigned(work.heights), warps);  // of a phase
  const unsigned tile = blockIdx.x % tiles, rest = blockIdx.x / tiles;
  const unsigned pair = tile * kWarp + threadIdx.x % kWarp, column = pair / chunks;
  const int height = int(rest % blocks * warps + threadIdx.x / kWarp);
  const bool any = int(column) < work.columns && height < work.heights;
  return {int(pair - column * chunks), int(column), int(rest / blocks), height, any};
}

// Images along z.
template <class T, class S, int kOutputs, int kColumns, bool kChannelsLast>
__global__ void __launch_bounds__(kByWarps<kOutputs, kChannelsLast> ? kMostWarps * kWarp : kThreads)
    gather(const __grid_constant__ Work work, const S* __restrict__ input, const S* __restrict__ weight,
           const S* __restrict__ bias, Activation<T> activation, S* __restrict__ output) {
  constexpr int kHeight = kRows<kColumns>;
  const auto [chunk, column, phase, height, any] =
      kByWarps<kOutputs, kChannelsLast> ? place_of_warp(work) : place_of_thread<kChannelsLast>(work);
  if (!any) return;
  const Line &y = work.y, &x = work.x;
  const int position = height * kHeight;
  const int from = column * kColumns + x.padding / kColumns * kColumns;  // behind the start of the padded output
  const int left = from - x.padding;
  const int group = int(unsigned(chunk) / unsigned(work.chunks)), part = int(unsigned(chunk) % unsigned(work.chunks));
  const S* image = input + blockIdx.z * work.in.n + int64_t(group) * work.channels * work.in.c;
  const S* taps = weight + group * work.weight.group + part * work.weight.chunk;
  T sums[kHeight][kColumns][kOutputs] = {};
  const int first_kx = x.first_tap(from % x.stride), first_x = from / x.stride - x.shift(first_kx);
  const int64_t next_source = int64_t(x.shift_step) * work.in.w, next_tap = x.step * work.weight.tap;
  int ky = y.first_tap(phase), top = position - y.shift(ky);
  for (; ky < y.kernel; ky += y.step, top -= y.shift_step) {
    const S* of_column = image + int64_t(top) * work.in.h + int64_t(first_x) * work.in.w;
    const S* of_tap = taps + ky * work.weight.row + first_kx * work.weight.tap;
    const bool inside = top >= 0 && top + kHeight <= y.in;  // all rows, as nearly always
    int across = first_x;
    for (int kx = first_kx; kx < x.kernel; kx += x.step, across -= x.shift_step) {
      const S *source = of_column, *tap = of_tap;
      of_column -= next_source, of_tap += next_tap;
      if (unsigned(across) >= unsigned(x.in)) continue;
      const auto add = [&](const auto& reads) {
#pragma unroll 1
        for (int c = 0; c < work.channels; ++c, source += work.in.c, tap += work.weight.channel) {
          const Taps<S, kOutputs, kColumns> weights(tap, work.weight.tap);
#pragma unroll
          for (int i = 0; i < kHeight; ++i) {
            if (!reads(top + i)) continue;
            const T value = static_cast<T>(source[i * work.in.h]);
#pragma unroll
            for (int j = 0; j < kColumns; ++j) {
#pragma unroll
              for (int r = 0; r < kOutputs; ++r) sums[i][j][r] += value * weights.template of<T>(j, r);
            }
          }
        }
      };
      inside ? add([](int) { return true; }) : add([&](int row_in) { return unsigned(row_in) < unsigned(y.in); });
    }
  }
  const int first = part * kOutputs, channel = group * work.outputs + first;
  const int some = minimum(work.outputs - first, kOutputs);
  const int below = position * y.stride + phase - y.padding;
  const int64_t next_row = int64_t(y.stride) * work.out.h;
  S* target = output + blockIdx.z * work.out.n + channel * work.out.c + int64_t(below) * work.out.h +
              int64_t(left) * work.out.w;
#pragma unroll
  for (int r = 0; r < kOutputs; ++r, target += work.out.c) {
    if (r >= some) break;
    const T start = bias ? static_cast<T>(bias[channel + r]) : T(0);
    S* pixel = target;
#pragma unroll
    for (int i = 0; i < kHeight; ++i, pixel += next_row) {
      if (unsigned(below + i * y.stride) >= unsigned(y.out)) continue;
      Pack<S, kColumns> pixels;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) pixels.of[j] = static_cast<S>(activation(sums[i][j][r] + start));
      if (kColumns > 1 && work.aligned) {
        *reinterpret_cast<Pack<S, kColumns>*>(pixel) = pixels;
        continue;
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (unsigned(left + j) < unsigned(x.out)) pixel[j * work.out.w] = pixels.of[j];
      }
    }
  }
}

}  // namespace fastvision::conv_transpose2d
