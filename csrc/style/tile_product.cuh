// The product of two tiles, a block each: sum over k of a[k][row] * b[k][column], in float32 or float64.
//
// Operands are read kStep of k at a time; the next step is on its way to registers while one is computed.
#pragma once

#include <algorithm>

#include "common/host_device.h"
#include "common/mma.cuh"
#include "common/pack.h"
#include "common/scalar.h"
#include "common/shared_memory.cuh"

namespace fastvision::gram_matrix {

constexpr int kTile = 64;      // rows and columns of a block
constexpr int kStep = 16;      // k at a time
constexpr int kThreads = 128;  // of a block

// Values [k, x] anywhere in memory, zeros for x >= count. One of the steps is 1.
template <class S>
struct Operand {
  const S* data;
  int64_t k_step, x_step, count;
};

// A thread's share of a step: one x and every second k, or one k and every eighth x, so that neighbouring threads read
// what lies side by side. A slab says where in shared memory [k, x] goes: Slab::at(k + l, x) is at(k, x) + at(l, 0) for
// k < 2 and even l, and for k < 4 and l a multiple of 4.
template <class T, class S>
class Loader {
 public:
  FV_DEVICE explicit Loader(const Operand<S>& from)
      : along_x_(from.x_step == 1), count_(int(minimum(from.count, int64_t(kTile)))) {
    const int t = threadIdx.x;
    k_ = along_x_ ? t / kTile : t % kStep, x_ = along_x_ ? t % kTile : t / kStep;
    data_ = from.data + k_ * from.k_step + x_ * from.x_step;
    next_ = along_x_ ? kEveryK * from.k_step : kEveryX * from.x_step;
    advance_ = kStep * from.k_step;
  }

  // The next kStep of k, zeros from `left` on.
  FV_DEVICE void fetch(int left) {
    const int some = along_x_ ? (x_ < count_ ? left - k_ : 0) : (k_ < left ? count_ - x_ : 0);
    const int every = along_x_ ? kEveryK : kEveryX;
    const S* at = data_;
#pragma unroll
    for (int i = 0; i < kEach; ++i, at += next_) values_[i] = i * every < some ? *at : S{};
    data_ += advance_;
  }

  template <class Slab>
  FV_DEVICE void store(Slab& slab) const {
    T* first = slab.values + Slab::at(k_, x_);
    if (along_x_) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) first[Slab::at(i * kEveryK, 0)] = static_cast<T>(values_[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) first[Slab::at(0, i * kEveryX)] = static_cast<T>(values_[i]);
    }
  }

 private:
  static constexpr int kEach = kTile * kStep / kThreads;
  static constexpr int kEveryK = kThreads / kTile, kEveryX = kThreads / kStep;

  bool along_x_;
  int count_, k_, x_;
  const S* data_;
  int64_t next_, advance_;
  S values_[kEach];
};

// Goes through k in [0, last): use(rows, columns) of each kStep, which lie in the two slabs of `shared`; rows are
// columns where `same`, and read once.
template <class Slab, class T, class A, class B, class Use>
FV_DEVICE void for_each_step(const Operand<A>& a, const Operand<B>& b, bool same, int64_t last, void* shared,
                             const Use& use) {
  Slab* slabs = static_cast<Slab*>(shared);
  Loader<T, A> rows(a);
  Loader<T, B> columns(b);
  const auto fetch = [&](int64_t first) {
    const int left = int(minimum(last - first, int64_t(kStep)));
    rows.fetch(left);
    if (!same) columns.fetch(left);
  };
  fetch(0);
  for (int64_t first = 0; first < last; first += kStep) {
    rows.store(slabs[0]);
    if (!same) columns.store(slabs[1]);
    __syncthreads();
    if (first + kStep < last) fetch(first + kStep);
    use(slabs[0], slabs[same ? 0 : 1]);
    __syncthreads();
  }
}

// ---- One multiplication after the other ----
//
// A thread keeps 8 x 4 sums, so that three reads of 16 bytes from shared memory feed 32 multiplications. Sums run over
// k in order.

template <class T>
struct QuadSlab {
  static constexpr int kPitch = kTile + 4;  // for fewer bank conflicts
  alignas(4 * sizeof(T)) T values[kStep * kPitch];

  static FV_DEVICE constexpr int at(int k, int x) { return k * kPitch + x; }
  FV_DEVICE const Pack<T, 4>& quad(int k, int x) const {
    return *reinterpret_cast<const Pack<T, 4>*>(values + at(k, x));
  }
};

// The sums of one thread: of a tile, rows and columns from row and column on. A warp has 32 x 32.
template <class T>
class SeparateSums {
 public:
  FV_DEVICE void add(const QuadSlab<T>& a, const QuadSlab<T>& b) {
#pragma unroll 8
    for (int k = 0; k < kStep; ++k) {
      const Pack<T, 4> low = a.quad(k, row_), high = a.quad(k, row_ + 4), right = b.quad(k, column_);
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

// Lanes that read 4 steps of 8 rows, or write 16 steps of 2, meet 32 banks.
struct MmaSlab {
  static constexpr int kPitch = 96;
  float values[kStep * kPitch];

  static FV_DEVICE constexpr int at(int k, int x) { return k * kPitch + x + k % 4 * 8 + k / 4 * 2; }
};

// A warp has 32 x 32 of a tile. kPartsA, kPartsB: 11 bits each, of which a number of the operands is made.
template <int kPartsA, int kPartsB>
class MmaSums {
 public:
  FV_DEVICE void add(const MmaSlab& a, const MmaSlab& b) {
    const MmaLane lane;
    const float* left = a.values + MmaSlab::at(lane.member, first_row() + lane.group);
    const float* right = b.values + MmaSlab::at(lane.member, first_column() + lane.group);
#pragma unroll
    for (int k = 0; k < kStep; k += 8) {
      float as[kPartsA][kDown][4], bs[kPartsB][kAcross][2];
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          split(left[MmaSlab::at(k + MmaLane::left_step(part), i * 16 + MmaLane::left_row(part))], as, i, part);
        }
      }
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
#pragma unroll
        for (int part = 0; part < 2; ++part)
          split(right[MmaSlab::at(k + MmaLane::right_step(part), j * 8)], bs, j, part);
      }
      multiply_add_tf32(short_, as, bs);
    }
    if (++steps_ == kShort) flush();
  }

  // Short sums to long ones; the last of them by hand.
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

  FV_DEVICE bool any_nan() const {
    bool any = false;
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int j = 0; j < kAcross; ++j) {
#pragma unroll
        for (int part = 0; part < 4; ++part) any |= sums_[i][j][part] != sums_[i][j][part];
      }
    }
    return any;
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
    parts[0][i][j] = kParts == 1 ? value : nearest_tf32(value);
    if constexpr (kParts == 2) parts[1][i][j] = value - parts[0][i][j];
  }

  float sums_[kDown][kAcross][4] = {}, short_[kDown][kAcross][4] = {};
  int steps_ = 0;
};

// ---- Either ----

// Bytes of shared memory that a block needs for products in T.
template <class T>
constexpr size_t shared_bytes() {
  return 2 * (sizeof(T) == sizeof(float) ? std::max(sizeof(QuadSlab<T>), sizeof(MmaSlab)) : sizeof(QuadSlab<T>));
}

// k in [0, last); visit(row, column, Pack of T side by side) of what this thread has of the tile; `same`: both operands
// are a, which is read once. shared: shared_bytes<T>().
template <class T, class A, class B, class Visit>
FV_DEVICE void multiply(const Operand<A>& a, const Operand<B>& b, bool same, int64_t last, void* shared,
                        const Visit& visit) {
  if constexpr (sizeof(T) == sizeof(float) && kHasTf32) {
    constexpr int kPartsA = sizeof(A) == 2 ? 1 : 2, kPartsB = sizeof(B) == 2 ? 1 : 2;
    MmaSums<kPartsA, kPartsB> sums;
    for_each_step<MmaSlab, float>(a, b, same, last, shared,
                                  [&](const MmaSlab& rows, const MmaSlab& columns) { sums.add(rows, columns); });
    sums.flush();
    if constexpr (kPartsA == 1 && kPartsB == 1) return sums.for_each(visit);
    // the second part of an infinity is NaN, and so would be its products: they are done again, as they are
    if (!__syncthreads_or(sums.any_nan())) return sums.for_each(visit);
  }
  SeparateSums<T> sums;
  for_each_step<QuadSlab<T>, T>(a, b, same, last, shared,
                                [&](const auto& rows, const auto& columns) { sums.add(rows, columns); });
  sums.for_each(visit);
}

}  // namespace fastvision::gram_matrix
