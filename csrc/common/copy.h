// Short copies, with a change of type if need be.
#pragma once

#include <cstdint>

namespace fastvision {

// to[i] = from[i]. In whole vectors: the loop over a count known only at run time costs more than such a copy.
template <class S, class T>
[[gnu::always_inline]] inline void copy(const S* __restrict from, int64_t count, T* __restrict to) {
  constexpr int64_t kWhole = 32 / int64_t(sizeof(T));
  int64_t i = 0;
  for (; i + kWhole <= count; i += kWhole) {
#pragma GCC unroll 8
    for (int64_t l = 0; l < kWhole; ++l) to[i + l] = static_cast<T>(from[i + l]);
  }
  for (; i < count; ++i) to[i] = static_cast<T>(from[i]);
}

}  // namespace fastvision
