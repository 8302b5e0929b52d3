// Barriers, votes and shuffles, as CUDA defines them: what it leaves undefined throws or yields a
// NaN where that can be told.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulation/grid.h"

namespace fastvision::emulation {

inline void __syncthreads(Site site = Site::here()) { block_barrier("__syncthreads", false, site); }
inline int __syncthreads_count(int predicate, Site site = Site::here()) {
  return block_barrier("__syncthreads_count", predicate != 0, site).nonzero;
}
inline int __syncthreads_or(int predicate, Site site = Site::here()) {
  return block_barrier("__syncthreads_or", predicate != 0, site).nonzero > 0;
}
inline int __syncthreads_and(int predicate, Site site = Site::here()) {
  const Count count = block_barrier("__syncthreads_and", predicate != 0, site);
  return count.nonzero == count.threads;
}

inline void __syncwarp(unsigned mask = ~0u, Site site = Site::here()) { warp_exchange("__syncwarp", mask, 0, 0, site); }
inline unsigned __ballot_sync(unsigned mask, int predicate, Site site = Site::here()) {
  return warp_exchange("__ballot_sync", mask, predicate != 0, 0, site).nonzero;
}
inline int __any_sync(unsigned mask, int predicate, Site site = Site::here()) {
  return warp_exchange("__any_sync", mask, predicate != 0, 0, site).nonzero != 0;
}
inline int __all_sync(unsigned mask, int predicate, Site site = Site::here()) {
  const Exchange exchange = warp_exchange("__all_sync", mask, predicate != 0, 0, site);
  return exchange.nonzero == exchange.lanes;
}

// What lane `source` brought; a NaN or an unlikely number where CUDA leaves the result undefined.
template <class T>
T shuffle(const char* name, unsigned mask, T value, int source, Site site) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles int, long long, float, double and their like");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = warp_exchange(name, mask, bits, source & (warpSize - 1), site).value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// A shuffle stays within segments of `width` lanes; out of its segment, a lane reads itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize, Site site = Site::here()) {
  const int first = lane() & ~(width - 1);
  return shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, Site site = Site::here()) {
  const int source = lane() - static_cast<int>(delta);
  const bool inside = source >= (lane() & ~(width - 1));
  return shuffle("__shfl_up_sync", mask, value, inside ? source : lane(), site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, Site site = Site::here()) {
  const int source = lane() + static_cast<int>(delta);
  const bool inside = source <= (lane() | (width - 1));
  return shuffle("__shfl_down_sync", mask, value, inside ? source : lane(), site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = warpSize, Site site = Site::here()) {
  const int source = lane() ^ lanes;
  const bool inside = source <= (lane() | (width - 1));
  return shuffle("__shfl_xor_sync", mask, value, inside ? source : lane(), site);
}

}  // namespace fastvision::emulation

using fastvision::emulation::__all_sync;
using fastvision::emulation::__any_sync;
using fastvision::emulation::__ballot_sync;
using fastvision::emulation::__shfl_down_sync;
using fastvision::emulation::__shfl_sync;
using fastvision::emulation::__shfl_up_sync;
using fastvision::emulation::__shfl_xor_sync;
using fastvision::emulation::__syncthreads;
using fastvision::emulation::__syncthreads_and;
using fastvision::emulation::__syncthreads_count;
using fastvision::emulation::__syncthreads_or;
using fastvision::emulation::__syncwarp;
