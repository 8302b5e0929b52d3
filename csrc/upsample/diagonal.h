// Dense layers that are depthwise in effect, on the CPU: what FCN's upsampling layers are initialised to.
#pragma once

#include <algorithm>
#include <atomic>

#include "common/memory.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {

// Whether kernels [channels, channels, taps] are zero off the diagonal.
template <class S>
bool is_diagonal(const Params& p, const S* weight) {
  const int64_t channels = p.channels, taps = p.y.kernel * p.x.kernel;
  if (p.groups != 1 || channels == 1 || channels != p.outputs || taps == 1) return false;
  std::atomic<bool> found{false};
  parallel_for(channels, std::max<int64_t>(1, 65536 / (channels * taps)), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end && !found.load(std::memory_order_relaxed); ++c) {
      const S* row = weight + c * channels * taps;
      bool any = false;
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t i = 0; i < c * taps; ++i) any |= row[i] != S(0);
        for (int64_t i = (c + 1) * taps; i < channels * taps; ++i) any |= row[i] != S(0);
      });
      if (any) found.store(true, std::memory_order_relaxed);
    }
  });
  return !found;
}

// The kernels [outputs, taps] of a depthwise or a diagonal layer.
template <class T, class S>
Buffer<T> kernels_of(const Params& p, const S* weight, bool diagonal) {
  const int64_t taps = p.y.kernel * p.x.kernel, step = diagonal ? (p.channels + 1) * taps : taps;
  Buffer<T> kernels(size_t(p.outputs * taps));
  for (int64_t o = 0; o < p.outputs; ++o) {
    for (int64_t k = 0; k < taps; ++k) kernels[size_t(o * taps + k)] = static_cast<T>(weight[o * step + k]);
  }
  return kernels;
}

}  // namespace fastvision::conv_transpose2d
