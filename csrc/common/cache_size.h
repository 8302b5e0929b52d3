// The size of the last cache before memory, as the processor itself tells it: the C library may tell that of all
// processors of a machine together.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace fastvision {

// In bytes; 0 where it is not known.
inline int64_t last_cache_bytes() {
  int64_t largest = 0;
#if defined(__x86_64__) && defined(__GNUC__)
  for (const unsigned leaf : {0x4u, 0x8000001du}) {  // Intel's and AMD's, of the same form
    if (__get_cpuid_max(leaf & 0x80000000u, nullptr) < leaf) continue;
    for (unsigned cache = 0; cache < 8; ++cache) {
      unsigned eax, ebx, ecx, edx;
      __cpuid_count(leaf, cache, eax, ebx, ecx, edx);
      if ((eax & 31) == 0) break;  // no more caches
      const int64_t line = (ebx & 0xfff) + 1, partitions = (ebx >> 12 & 0x3ff) + 1, ways = (ebx >> 22) + 1;
      largest = std::max(largest, line * partitions * ways * (int64_t(ecx) + 1));
    }
  }
#endif
  return largest;
}

}  // namespace fastvision
