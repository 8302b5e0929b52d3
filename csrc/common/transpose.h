// Small transposes between rows of pixels and lanes of channels.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace fastvision {

#if defined(__GNUC__) && !defined(__clang__)
// As many rows of 16 bytes as have words of kBytes each.
template <int kBytes>
struct Square {
  using Word = std::conditional_t<kBytes == 2, uint16_t, std::conditional_t<kBytes == 4, uint32_t, uint64_t>>;
  static constexpr int kSide = 16 / kBytes;
  typedef Word Row __attribute__((vector_size(16)));
  Row rows[kSide];

  // Dealing the first half of the rows and the second alternately, word by word, moves each word's place by one bit.
  [[gnu::always_inline]] void transpose() {
    const auto [low, high] = picks(std::make_integer_sequence<Word, kSide>{});
    for (int bit = 1; bit < kSide; bit *= 2) {
      Row dealt[kSide];
      for (int i = 0; i < kSide / 2; ++i) {
        dealt[2 * i] = __builtin_shuffle(rows[i], rows[i + kSide / 2], low);
        dealt[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kSide / 2], high);
      }
      for (int i = 0; i < kSide; ++i) rows[i] = dealt[i];
    }
  }

 private:
  struct Picks {
    Row low, high;
  };
  template <Word... kAt>
  [[gnu::always_inline]] static Picks picks(std::integer_sequence<Word, kAt...>) {
    return {Row{(kAt / 2 + kAt % 2 * kSide)...}, Row{(kSide / 2 + kAt / 2 + kAt % 2 * kSide)...}};
  }
};
#endif

// `transpose`, all columns of a few rows at a time.
template <class S, class T>
[[gnu::always_inline]] inline void transpose_columns(const S* from, int64_t from_step, int64_t rows, int64_t columns,
                                                     T* to, int64_t to_step) {
  int64_t r = 0;
#if defined(__GNUC__) && !defined(__clang__)  // clang has no __builtin_shuffle, and vectorises the plain loop
  if constexpr (std::is_same_v<S, T> && std::is_trivially_copyable_v<S> && sizeof(S) >= 2 && sizeof(S) <= 8) {
    constexpr int kSide = Square<sizeof(S)>::kSide;
    for (; r + kSide <= rows; r += kSide) {
      const S* source = from + r * from_step;
      T* target = to + r;
      int64_t c = 0;
      for (; c + kSide <= columns; c += kSide) {
        Square<sizeof(S)> square;
        for (int i = 0; i < kSide; ++i) std::memcpy(&square.rows[i], source + i * from_step + c, 16);
        square.transpose();
        for (int i = 0; i < kSide; ++i) std::memcpy(target + (c + i) * to_step, &square.rows[i], 16);
      }
      for (; c < columns; ++c) {
        for (int i = 0; i < kSide; ++i) target[c * to_step + i] = source[i * from_step + c];
      }
    }
  }
  if constexpr (std::is_same_v<S, T> && sizeof(S) == 4 && std::is_trivially_copyable_v<S>) {
    typedef float Four __attribute__((vector_size(16)));
    typedef int Pick __attribute__((vector_size(16)));
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
  const int64_t together = to_step > from_step || to_step * kFew >= kStay ? kFew : kStay / to_step / kFew * kFew;
  for (int64_t c = 0; c < columns; c += together) {
    const int64_t some = columns - c < together ? columns - c : together;
    transpose_columns(from + c, from_step, rows, some, to + c * to_step, to_step);
  }
}

}  // namespace fastvision
