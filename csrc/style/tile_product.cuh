// The product of two tiles, a block each: sum over k of a[k][row] * b[k][column], in float32 or float64.
#pragma once

#include "common/mma.cuh"
#include "common/pack.h"
#include "style/tile_steps.cuh"

namespace fastvision::gram_matrix {

// ---- One multiplication after the other ----
//
// A thread keeps 8 x 4 sums, so that three reads of 16 bytes from shared memory feed 32 multiplications. Sums run over
// k in order.

template <class T>
using QuadSlab = Slab<T, kTile + 4, 1>;

template <class T>
FV_DEVICE const Pack<T, 4>& quad(const QuadSlab<T>& slab, int k, int x) {
  return *reinterpret_cast<const Pack<T, 4>*>(slab.values + slab.at(k, x));
}

// The sums of one thread: of a tile, rows and columns from row and column on. A warp has 32 x 32.
template <class T>
class SeparateSums {
 public:
  FV_DEVICE void add(const QuadSlab<T>& a, const QuadSlab<T>& b) {
#pragma unroll 8
    for (int k = 0; k < kStep; ++k) {
      const Pack<T, 4> low = quad(a, k, row_), high = quad(a, k, row_ + 4), right = quad(b, k, column_);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sums_[i][j] += (i < 4 ? low.of[i] : high.of[i - 4]) * right.of[j];
      }
    }
  }

  // visit(row, column, Pack of sums side by side)
  template <class Visit>
  FV_DEVICE void for_each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      visit(row_ + i, column_, Pack<T, 4>{sums_[i][0], sums_[i][1], sums_[i][2], sums_[i][3]});
    }
  }

 private:
  static constexpr int kRows = 8, kColumns = 4;

  int row_ = (int(threadIdx.x) / 64 * 4 + int(threadIdx.x) % 32 / 8) * kRows;
  int column_ = (int(threadIdx.x) / 32 % 2 * 8 + int(threadIdx.x) % 8) * kColumns;
  T sums_[kRows][kColumns] = {};
};

// ---- On tensor cores ----
//
// They read 11 bits of a number. A float32 is the sum of two such numbers but for its last 2 bits, and a product that
// of three products (Ootomo & Yokota 2022, "Recovering single precision accuracy from Tensor Cores"); half types need
// no second part. Tensor cores cut off what does not fit a sum, so theirs are short and added up here.

// A warp has 32 x 32 of a tile. kPartsA, kPartsB: 11 bits each, of which a number of the operands is made.
template <int kPartsA, int kPartsB>
class MmaSums {
 public:
  template <class Slab>
  FV_DEVICE void add(const Slab& a, const Slab& b) {
    const MmaLane lane;
    const float* left = a.values + Slab::at(lane.left_step(0), first_row() + lane.left_row(0));
    const float* right = b.values + Slab::at(lane.right_step(0), first_column() + lane.right_column());
#pragma unroll
    for (int k = 0; k < kStep; k += 8) {
      float as[kPartsA][kDown][4], bs[kPartsB][kAcross][2];
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          split(left[Slab::at(k + part / 2 * 4, i * 16 + part % 2 * 8)], as, i, part);
        }
      }
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
#pragma unroll
        for (int part = 0; part < 2; ++part) split(right[Slab::at(k + part * 4, j * 8)], bs, j, part);
      }
      multiply_add_tf32(short_, as, bs);
    }
    if (++steps_ == kShort) flush();
  }

  // The last sums; whether a NaN is among them.
  FV_DEVICE bool finish() {
    flush();
    bool bad = false;
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
#pragma unroll
        for (int part = 0; part < 4; ++part) bad |= sums_[i][j][part] != sums_[i][j][part];
      }
    }
    return bad;
  }

  // visit(row, column, Pack of sums side by side)
  template <class Visit>
  FV_DEVICE void for_each(const Visit& visit) const {
    const MmaLane lane;
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int half = 0; half < 4; half += 2) {
#pragma unroll
        for (int j = 0; j < kAcross; ++j) {
          visit(first_row() + i * 16 + lane.row(half), first_column() + j * 8 + lane.column(half),
                Pack<float, 2>{sums_[i][j][half], sums_[i][j][half + 1]});
        }
      }
    }
  }

 private:
  static constexpr int kDown = 2, kAcross = 4;  // products of 16 x 8
  static constexpr int kShort = 4;              // steps that tensor cores add up

  static FV_DEVICE int first_row() { return int(threadIdx.x) / 64 * 32; }
  static FV_DEVICE int first_column() { return int(threadIdx.x) / 32 % 2 * 32; }

  template <int kParts, int kCount, int kEach>
  static FV_DEVICE void split(float value, float (&parts)[kParts][kCount][kEach], int i, int j) {
    parts[0][i][j] = kParts == 1 ? value : tf32_of(value);
    if constexpr (kParts == 2) parts[1][i][j] = value - parts[0][i][j];
  }

  FV_DEVICE void flush() {
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
#pragma unroll
        for (int part = 0; part < 4; ++part) sums_[i][j][part] += short_[i][j][part], short_[i][j][part] = 0;
      }
    }
    steps_ = 0;
  }

  float sums_[kDown][kAcross][4] = {}, short_[kDown][kAcross][4] = {};
  int steps_ = 0;
};

// ---- Either ----

// Bytes of shared memory that a block needs for products in T.
template <class T>
constexpr size_t shared_bytes() {
  constexpr size_t kQuads = 2 * sizeof(QuadSlab<T>), kCopied = 2 * kStages * std::max(sizeof(SlabOfX), sizeof(SlabOfK));
  return sizeof(T) == sizeof(float) ? std::max(kQuads, kCopied) : kQuads;
}

template <class Slab, class Sums, class A, class B>
FV_DEVICE void add_products(Sums& sums, const Operand<A>& a, const Operand<B>& b, bool same, int64_t last,
                            void* shared) {
  const auto add = [&](const Slab& rows, const Slab& columns) { sums.add(rows, columns); };
  if constexpr (std::is_same_v<A, float> && std::is_same_v<B, float>) {
    if (Copier<Slab>::fits(a) && Copier<Slab>::fits(b)) {
      return for_each_copied_step<Slab>(a, b, same, last, shared, add);
    }
  }
  for_each_step<Slab, float>(a, b, same, last, shared, add);
}

// k in [0, last); visit(row, column, Pack of T side by side) of what this thread has of the tile; `same`: both operands
// are a, which is read once. Infinities, whose second part is NaN, are multiplied one after the other. shared:
// shared_bytes<T>().
template <class T, class A, class B, class Visit>
FV_DEVICE void multiply(const Operand<A>& a, const Operand<B>& b, bool same, int64_t last, void* shared,
                        const Visit& visit) {
  if constexpr (sizeof(T) == sizeof(float) && kHasTf32) {
    MmaSums<sizeof(A) == 2 ? 1 : 2, sizeof(B) == 2 ? 1 : 2> sums;
    if (b.x_step == 1) {
      add_products<SlabOfX>(sums, a, b, same, last, shared);
    } else {
      add_products<SlabOfK>(sums, a, b, same, last, shared);
    }
    if (!__syncthreads_or(sums.finish())) return sums.for_each(visit);
  }
  SeparateSums<T> sums;
  for_each_step<QuadSlab<T>, T>(a, b, same, last, shared,
                                [&](const auto& rows, const auto& columns) { sums.add(rows, columns); });
  sums.for_each(visit);
}

}  // namespace fastvision::gram_matrix
