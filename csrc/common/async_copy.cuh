// Copies from global to shared memory that run while the threads go on: PTX ISA, cp.async, from compute capability 8.0
// on. In emulation a copy is done at once, so a missing wait shows on a GPU only.
#pragma once

#include <cstring>

#include "common/host_device.h"

namespace fastvision {

// The first `bytes` of 16, and zeros for the others; both addresses are multiples of 16.
FV_DEVICE void copy_16_async([[maybe_unused]] void* shared, [[maybe_unused]] const void* global,
                             [[maybe_unused]] int bytes) {
#ifdef FASTVISION_EMULATION
  if (bytes > 0) std::memcpy(shared, global, size_t(bytes));
  std::memset(static_cast<char*>(shared) + bytes, 0, size_t(16 - bytes));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#endif
}

// What this thread has copied since the last call is one group.
FV_DEVICE void end_copy_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until no more than the last kGroups groups of this thread are under way.
template <int kGroups>
FV_DEVICE void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace fastvision
