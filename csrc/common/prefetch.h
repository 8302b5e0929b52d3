// Asks for memory before it is needed.
#pragma once

#include <cstdint>

namespace fastvision {

// `count` numbers that will be written: what is written before its lines are there waits for them, one after the other
// where they do not lie in a row.
template <class S>
[[gnu::always_inline]] inline void prefetch_to_write(const S* numbers, int64_t count) {
  constexpr int64_t kLine = 64 / int64_t(sizeof(S));
  for (int64_t e = 0; e < count; e += kLine) __builtin_prefetch(numbers + e, 1);
}

}  // namespace fastvision
