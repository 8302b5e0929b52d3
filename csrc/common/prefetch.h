// Asks for memory before it is needed.
#pragma once

#include <cstdint>

namespace fastvision {

// `count` numbers that will be written: stores to lines that are not in a cache wait for them, and processors follow
// those in a row by themselves, but not what goes forward in strides.
template <class S>
[[gnu::always_inline]] inline void prefetch_to_write(const S* numbers, int64_t count) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(S));
  for (int64_t e = 0; e < count; e += kLine) __builtin_prefetch(numbers + e, 1);
}

}  // namespace fastvision
