// Small transposes between rows of pixels and lanes of channels.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace fastvision {

// `transpose`, all columns of a few rows at a time.
template <class S, class T>
[[gnu::always_inline]] inline void transpose_columns(const S* from, int64_t from_step, int64_t rows, int64_t columns,
                                                     T* to, int64_t to_step) {
  int64_t r = 0;
#if defined(__GNUC__) && !defined(__clang__)  // clang has no __builtin_shuffle, and vectorises the plain loop
  if constexpr (std::is_same_v<S, T> && sizeof(S) == 4 && std::is_trivially_copyable_v<S>) {
    typedef float Four __attribute__((vector_size(16)));
    typedef int Pick __attribute__((vector_size(16)));
    for (; r + 4 <= rows; r += 4) {
      const S* source = from + r * from_step;
      T* target = to + r;
      int64_t c = 0;
      for (; c + 4 <= columns; c += 4) {
        Four a, b, d, e;  // four rows of four
        std::memcpy(&a, source + c, 16), std::memcpy(&b, source + from_step + c, 16);
        std::memcpy(&d, source + 2 * from_step + c, 16), std::memcpy(&e, source + 3 * from_step + c, 16);
        const Four ab_low = __builtin_shuffle(a, b, Pick{0, 4, 1, 5}),
                   ab_high = __builtin_shuffle(a, b, Pick{2, 6, 3, 7});
        const Four de_low = __builtin_shuffle(d, e, Pick{0, 4, 1, 5}),
                   de_high = __builtin_shuffle(d, e, Pick{2, 6, 3, 7});
        const Four columns_of_four[] = {__builtin_shuffle(ab_low, de_low, Pick{0, 1, 4, 5}),
                                        __builtin_shuffle(ab_low, de_low, Pick{2, 3, 6, 7}),
                                        __builtin_shuffle(ab_high, de_high, Pick{0, 1, 4, 5}),
                                        __builtin_shuffle(ab_high, de_high, Pick{2, 3, 6, 7})};
        for (int i = 0; i < 4; ++i) std::memcpy(target + (c + i) * to_step, &columns_of_four[i], 16);
      }
      for (; c < columns; ++c) {
        for (int i = 0; i < 4; ++i) target[c * to_step + i] = source[i * from_step + c];
      }
    }
    if (r + 2 <= rows) {
      const S* source = from + r * from_step;
      T* target = to + r;
      int64_t c = 0;
      for (; c + 4 <= columns; c += 4) {
        Four a, b;
        std::memcpy(&a, source + c, 16), std::memcpy(&b, source + from_step + c, 16);
        const Four pairs[] = {__builtin_shuffle(a, b, Pick{0, 4, 1, 5}), __builtin_shuffle(a, b, Pick{2, 6, 3, 7})};
        for (int i = 0; i < 4; ++i) {
          std::memcpy(target + (c + i) * to_step, reinterpret_cast<const char*>(pairs) + 8 * i, 8);
        }
      }
      for (; c < columns; ++c) {
        for (int i = 0; i < 2; ++i) target[c * to_step + i] = source[i * from_step + c];
      }
      r += 2;
    }
  }
#endif
  // numbers are converted as they are written, several at a time; only long rows are read as they lie
  if (!std::is_same_v<S, T> && (to_step > from_step || columns <= 4 * rows)) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = r; i < rows; ++i) to[c * to_step + i] = static_cast<T>(from[i * from_step + c]);
    }
    return;
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * to_step + r] = static_cast<T>(from[r * from_step + c]);
  }
}

// from: `rows` rows of `columns` contiguous values, `from_step` apart; to: the transpose, rows `to_step` apart.
//
// A few of those at a time, because their cache lines are written bit by bit, a few of the rows after the others: as
// many as stay in the first cache, or, if they lie further apart, of which planes whose size is a power of two compete
// for the same places of it, eight.
template <class S, class T>
[[gnu::always_inline]] inline void transpose(const S* from, int64_t from_step, int64_t rows, int64_t columns, T* to,
                                             int64_t to_step) {
  constexpr int64_t kStay = 16384 / int64_t(sizeof(T)), kFew = 8;
  const int64_t together = to_step > from_step || to_step * kFew >= kStay ? kFew : kStay / to_step;
  for (int64_t c = 0; c < columns; c += together) {
    const int64_t some = columns - c < together ? columns - c : together;
    transpose_columns(from + c, from_step, rows, some, to + c * to_step, to_step);
  }
}

}  // namespace fastvision
