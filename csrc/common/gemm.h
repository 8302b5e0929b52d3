// Products of small matrix tiles on the CPU, kept in registers: what convolutions and Gram matrices are made of.
//
// One tile is rows x columns of  out[i][j] (+)= sum_k a[k][i] * b[k][j].  Both operands run along k, so a packed panel,
// an image [pixels, channels] and a symmetric matrix can each be read where they lie. Summation over k is in order: the
// same numbers give the same bits in every run, however the tiles are spread over threads.
//
// The kernels are written for one instruction set each (`target`) rather than through `vectorized`: tiles differ in
// rows and columns, as many as its registers hold, and are called through a table. Files that include this are compiled
// with -ffp-contract=fast: a sum of products has no decision to protect.
#pragma once

#include <array>
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

#include "common/simd.h"

namespace fastvision::gemm {

// `columns` is a whole number of vectors; `rows` as many as the registers hold beside them.
struct Tile {
  int rows, columns;
};

// Two bfloat16 numbers that follow each other along k, the earlier in the low bits; aligned as they are.
struct [[gnu::may_alias, gnu::packed, gnu::aligned(2)]] BFloat16Pair {
  uint32_t bits;
};

// No tile of any instruction set is larger.
constexpr int kMostRows = 8;
template <class T>
inline constexpr int kMostColumns = 128 / int(sizeof(T));

template <class T, class A = T>
struct Operands {
  const A* a;  // [depth, rows], rows of `a_step` numbers
  int64_t a_step;
  const A* b;  // [depth, columns]
  int64_t b_step;
  int64_t depth;
  T* out;  // [rows, columns]
  int64_t out_step;
  bool accumulate;
  const T* start = nullptr;  // [columns], what the sums of every row begin with
};

namespace detail {

// One spelling of the kernel for each instruction set: a function template may have a `target`, a lambda it inlines may
// not.
#define FV_GEMM_KERNEL(name, kBytes, ...)                                                           \
  template <class T, int kRows, int kVectors>                                                       \
  __VA_ARGS__ void name(const Operands<T>& o) {                                                     \
    using V = typename Register<T, kBytes>::Raw;                                                    \
    constexpr int kLanes = kBytes / int(sizeof(T));                                                 \
    V sums[kRows][kVectors] = {};                                                                   \
    if (o.start) {                                                                                  \
      _Pragma("GCC unroll 8") for (int r = 0; r < kRows; ++r) {                                     \
        _Pragma("GCC unroll 8") for (int v = 0; v < kVectors; ++v) sums[r][v] =                     \
            *reinterpret_cast<const V*>(o.start + v * kLanes);                                      \
      }                                                                                             \
    }                                                                                               \
    const T *a = o.a, *b = o.b;                                                                     \
    for (int64_t k = 0; k < o.depth; ++k, a += o.a_step, b += o.b_step) {                           \
      V columns[kVectors];                                                                          \
      _Pragma("GCC unroll 8") for (int v = 0; v < kVectors; ++v) columns[v] =                       \
          *reinterpret_cast<const V*>(b + v * kLanes);                                              \
      _Pragma("GCC unroll 8") for (int r = 0; r < kRows; ++r) {                                     \
        _Pragma("GCC unroll 8") for (int v = 0; v < kVectors; ++v) sums[r][v] += a[r] * columns[v]; \
      }                                                                                             \
    }                                                                                               \
    _Pragma("GCC unroll 8") for (int r = 0; r < kRows; ++r) {                                       \
      _Pragma("GCC unroll 8") for (int v = 0; v < kVectors; ++v) {                                  \
        V* target = reinterpret_cast<V*>(o.out + r * o.out_step + v * kLanes);                      \
        *target = o.accumulate ? *target + sums[r][v] : sums[r][v];                                 \
      }                                                                                             \
    }                                                                                               \
  }

#if defined(__x86_64__) && defined(__GNUC__)
FV_GEMM_KERNEL(multiply_avx512, 64, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"), noinline)))
FV_GEMM_KERNEL(multiply_avx2, 32, __attribute__((target("avx2,fma"), noinline)))
#endif
FV_GEMM_KERNEL(multiply_baseline, 16, __attribute__((noinline)))

#undef FV_GEMM_KERNEL

#if defined(__x86_64__) && defined(__GNUC__)
template <int kRows, int kVectors>
__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"),
               noinline)) void multiply_pairs_avx512(const Operands<float, BFloat16Pair>& o) {
  __m512 sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = o.accumulate ? _mm512_loadu_ps(o.out + r * o.out_step + v * 16) : _mm512_setzero_ps();
    }
  }
  const BFloat16Pair *a = o.a, *b = o.b;
  for (int64_t k = 0; k < o.depth; ++k, a += o.a_step, b += o.b_step) {
    __m512bh columns[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) columns[v] = (__m512bh)_mm512_loadu_si512(b + v * 16);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512bh row = (__m512bh)_mm512_set1_epi32(int(a[r].bits));
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], row, columns[v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(o.out + r * o.out_step + v * 16, sums[r][v]);
  }
}
#endif

}  // namespace detail

// Whether the processor multiplies pairs of bfloat16.
inline bool multiplies_pairs() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool found = isa() == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
  return found;
#else
  return false;
#endif
}

// The size of a whole tile on this processor.
template <class T>
Tile tile() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (isa() == Isa::kAvx512) return {8, 128 / int(sizeof(T))};
  if (isa() == Isa::kAvx2) return {6, 64 / int(sizeof(T))};
#endif
  return {4, 32 / int(sizeof(T))};
}

// A tile of tile<float>().columns columns and 1 to tile<float>().rows rows, where multiplies_pairs(). Each k is two of
// them, whose products are added in float32, the later first; what is too small for a normal number is zero.
inline void multiply([[maybe_unused]] int64_t rows, [[maybe_unused]] const Operands<float, BFloat16Pair>& o) {
#if defined(__x86_64__) && defined(__GNUC__)
  using namespace detail;
  static constexpr std::array kKernels{multiply_pairs_avx512<1, 2>, multiply_pairs_avx512<2, 2>,
                                       multiply_pairs_avx512<3, 2>, multiply_pairs_avx512<4, 2>,
                                       multiply_pairs_avx512<5, 2>, multiply_pairs_avx512<6, 2>,
                                       multiply_pairs_avx512<7, 2>, multiply_pairs_avx512<8, 2>};
  kKernels[size_t(rows - 1)](o);
#endif
}

// A tile of tile<T>().columns columns and 1 to tile<T>().rows rows.
template <class T>
void multiply(int64_t rows, const Operands<T>& o) {
  using Kernel = void (*)(const Operands<T>&);
  constexpr auto kernels = [](auto... kernel) { return std::array<Kernel, sizeof...(kernel)>{kernel...}; };
  using namespace detail;
#if defined(__x86_64__) && defined(__GNUC__)
  static constexpr auto kAvx512 =
      kernels(multiply_avx512<T, 1, 2>, multiply_avx512<T, 2, 2>, multiply_avx512<T, 3, 2>, multiply_avx512<T, 4, 2>,
              multiply_avx512<T, 5, 2>, multiply_avx512<T, 6, 2>, multiply_avx512<T, 7, 2>, multiply_avx512<T, 8, 2>);
  static constexpr auto kAvx2 = kernels(multiply_avx2<T, 1, 2>, multiply_avx2<T, 2, 2>, multiply_avx2<T, 3, 2>,
                                        multiply_avx2<T, 4, 2>, multiply_avx2<T, 5, 2>, multiply_avx2<T, 6, 2>);
  if (isa() == Isa::kAvx512) return kAvx512[size_t(rows - 1)](o);
  if (isa() == Isa::kAvx2) return kAvx2[size_t(rows - 1)](o);
#endif
  static constexpr auto kBaseline = kernels(multiply_baseline<T, 1, 2>, multiply_baseline<T, 2, 2>,
                                            multiply_baseline<T, 3, 2>, multiply_baseline<T, 4, 2>);
  kBaseline[size_t(rows - 1)](o);
}

}  // namespace fastvision::gemm
