// A small kernel with planted faults, to prove that emulation sees them. Each FAULT_* takes one
// line out or wrong:
//
//   FAULT_NO_BARRIER       a __syncthreads is missing             -> wrong result
//   FAULT_SHIFTED_INDEX    the halo is read one element aside     -> wrong result
//   FAULT_NO_BOUNDS_CHECK  threads beyond the end read and write  -> AddressSanitizer
//   FAULT_SHARED_OVERRUN   one element beyond the shared array    -> AddressSanitizer
//   FAULT_DEADLOCK         a barrier in a divergent branch        -> an exception that names both
//   lines
#include <cuda_runtime.h>

#include "common/shared_memory.cuh"

constexpr int kBlock = 128;
constexpr int kRadius = 3;
constexpr int kWarps = kBlock / 32;

// smooth[i]: sum of values[i - 3 .. i + 3], zeros beyond the ends.   values, smooth: [count]
// total: sum of smooth.   positive: how many of smooth are above 0.
__global__ void smooth_and_sum(const int* __restrict__ values, int count, int* __restrict__ smooth,
                               int* __restrict__ total, int* __restrict__ positive) {
  FV_DYNAMIC_SHARED(int, tile);  // [kRadius + kBlock + kRadius]
  FV_SHARED(int, warp_sums, [kWarps]);
  const int t = threadIdx.x;
  const int i = blockIdx.x * kBlock + t;

  for (int k = t; k < kBlock + 2 * kRadius; k += kBlock) {
    const int from = static_cast<int>(blockIdx.x) * kBlock + k - kRadius;
    tile[k] = from >= 0 && from < count ? values[from] : 0;
  }
#ifdef FAULT_DEADLOCK
  if (t < 48) __syncthreads();
#endif
#ifndef FAULT_NO_BARRIER
  __syncthreads();
#endif

#ifdef FAULT_SHIFTED_INDEX
  const int first = t > 0 ? t - 1 : t;
#elif defined(FAULT_SHARED_OVERRUN)
  const int first = t + 1;
#else
  const int first = t;
#endif
  int sum = 0;
  for (int k = 0; k <= 2 * kRadius; ++k) sum += tile[first + k];
#ifdef FAULT_NO_BOUNDS_CHECK
  const bool inside = true;
#else
  const bool inside = i < count;
#endif
  if (inside) smooth[i] = sum;

  int warp_sum = inside ? sum : 0;
  for (int offset = 16; offset > 0; offset /= 2) {
    warp_sum += __shfl_down_sync(0xffffffffu, warp_sum, offset);
  }
  const unsigned above = __ballot_sync(0xffffffffu, inside && sum > 0);
  if (t % 32 == 0) {
    warp_sums[t / 32] = warp_sum;
    atomicAdd(positive, __popc(above));
  }
  __syncthreads();
  if (t == 0) {
    int block_sum = 0;
    for (int w = 0; w < kWarps; ++w) block_sum += warp_sums[w];
    atomicAdd(total, block_sum);
  }
}

#ifdef FASTVISION_EMULATION

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

namespace {

bool right(int count) {
  std::vector<int> values(count), expected(count), smooth(count);
  int expected_total = 0, expected_positive = 0, total = 0, positive = 0;
  for (int i = 0; i < count; ++i) values[i] = i * 7919 % 201 - 100;
  for (int i = 0; i < count; ++i) {
    for (int k = i - kRadius; k <= i + kRadius; ++k) {
      if (k >= 0 && k < count) expected[i] += values[k];
    }
    expected_total += expected[i];
    expected_positive += expected[i] > 0;
  }
  const unsigned blocks = (count + kBlock - 1) / kBlock;
  fastvision::emulation::run_grid("smooth_and_sum", blocks, kBlock, (kBlock + 2 * kRadius) * sizeof(int),
                                  [&] { smooth_and_sum(values.data(), count, smooth.data(), &total, &positive); });
  return smooth == expected && total == expected_total && positive == expected_positive;
}

}  // namespace

// Exit status: 0 if right with every seed, 1 if wrong with every seed, 2 if only with some, 3 if a
// launch failed.
int main() {
  const int seeds = 20;
  int wrong = 0;
  try {
    for (int seed = 0; seed < seeds; ++seed) {
      setenv("FASTVISION_EMULATION_SEED", std::to_string(seed).c_str(), 1);
      wrong += !(right(1000) && right(4096) && right(5));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 3;
  }
  std::printf("wrong with %d of %d seeds\n", wrong, seeds);
  return wrong == 0 ? 0 : wrong == seeds ? 1 : 2;
}

#endif
