// Runs a grid of CUDA threads on the calling host thread, in an order shuffled anew for every
// launch.
//
// A thread runs undisturbed until it waits for others or ends. The order is a function of
// FASTVISION_EMULATION_SEED (an integer, 0 if unset) and of the number of launches before. A wait
// that can never end throws, naming who waits where.
//
// What this cannot show: a plain read-modify-write where an atomic is needed (nothing interrupts
// it), a missing __threadfence (memory is always up to date), and whatever waits by spinning on
// memory (it hangs).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

#include "vector_types.h"

inline thread_local uint3 threadIdx{};
inline thread_local uint3 blockIdx{};
inline thread_local dim3 blockDim{};
inline thread_local dim3 gridDim{};
inline constexpr int warpSize = 32;

namespace fastvision::emulation {

// Calls thread() once for each thread of each block. Exceptions thrown inside end the launch and
// reach the caller.
void run_grid(const char* op, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

// Where a thread waits: the line of the kernel, through default arguments.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

struct Count {
  int threads;  // that took part
  int nonzero;  // of these, with a predicate other than zero
};

// Waits for all threads of the block that have not ended. They have to wait at the same line: CUDA
// leaves a barrier in a divergent branch undefined.
Count block_barrier(const char* name, bool predicate, Site site);

struct Exchange {
  uint64_t value;    // what lane `source` brought; a pattern if it took no part
  uint32_t lanes;    // that took part
  uint32_t nonzero;  // of these, with a value other than zero
};

// Waits for all lanes of the warp that `mask` names and that have not ended, at an operation of
// this name and mask.
Exchange warp_exchange(const char* name, uint32_t mask, uint64_t value, int source, Site site);

int lane();

// Fresh shared memory holds this, never zeros: a NaN as float, double, half and bfloat16, an
// unlikely number as an integer.
inline constexpr uint64_t kFreshPattern = 0xFFFDFFFDFFFDFFFDull;

// One array of the running block for each `site`; nullptr for no dynamic shared memory.
void* static_shared(const void* site, size_t bytes, size_t alignment);
void* dynamic_shared();

template <class T>
T& static_shared(const void* site) {
  static_assert(std::is_trivially_default_constructible_v<T>, "shared memory is not constructed");
  return *static_cast<T*>(static_shared(site, sizeof(T), alignof(T)));
}

}  // namespace fastvision::emulation
