// The product of two tiles, a block each: sum over k of a[k][row] * b[k][column].
//
// A thread keeps 8 x 4 sums, so that three reads of 16 bytes from shared memory feed 32 multiplications; the next step
// is on its way to registers while one is computed. Sums run over k in order.
#pragma once

#include "common/host_device.h"
#include "common/pack.h"
#include "common/shared_memory.cuh"

namespace fastvision::gram_matrix {

constexpr int kTile = 64;               // rows and columns of a block
constexpr int kStep = 16;               // k at a time
constexpr int kRows = 8, kColumns = 4;  // of a thread
constexpr int kThreads = kTile / kRows * (kTile / kColumns);
constexpr int kPadding = 4;  // of a row of the slab, for fewer bank conflicts

template <class T>
using Quad = Pack<T, 4>;

// [k][x], x the rows or columns of the tile, four at a time
template <class T>
using Slab = Quad<T>[kStep][(kTile + kPadding) / 4];

// Values [k, x] anywhere in memory, zeros for x >= count. One of the steps is 1.
template <class S>
struct Operand {
  const S* data;
  int64_t k_step, x_step, count;
};

// A thread's share of a slab: one x and every second k, or one k and every eighth x, so that neighbouring threads read
// what lies side by side.
template <class T, class S>
class Loader {
 public:
  FV_DEVICE explicit Loader(const Operand<S>& from)
      : along_x_(from.x_step == 1), count_(int(minimum(from.count, int64_t(kTile)))) {
    const int t = threadIdx.x;
    k_ = along_x_ ? t / kTile : t % kStep, x_ = along_x_ ? t % kTile : t / kStep;
    data_ = from.data + k_ * from.k_step + x_ * from.x_step;
    next_ = (along_x_ ? from.k_step : from.x_step) * stride();
    advance_ = kStep * from.k_step;
  }

  // The next kStep of k, zeros from `left` on.
  FV_DEVICE void fetch(int left) {
    const int some = along_x_ ? (x_ < count_ ? left - k_ : 0) : (k_ < left ? count_ - x_ : 0);
    const S* at = data_;
#pragma unroll
    for (int i = 0; i < kEach; ++i, at += next_) values_[i] = i * stride() < some ? *at : S{};
    data_ += advance_;
  }

  FV_DEVICE void store(Slab<T>& slab) const {
    T* at = slab[k_][0].of + x_;
    const int next = along_x_ ? stride() * (kTile + kPadding) : stride();
#pragma unroll
    for (int i = 0; i < kEach; ++i) at[i * next] = static_cast<T>(values_[i]);
  }

 private:
  static constexpr int kEach = kTile * kStep / kThreads;
  FV_DEVICE int stride() const { return along_x_ ? kThreads / kTile : kThreads / kStep; }

  bool along_x_;
  int count_, k_, x_;
  const S* data_;
  int64_t next_, advance_;
  S values_[kEach];
};

// The sums of one thread: rows and columns of the tile from row() and column() on. A warp has 32 x 32.
template <class T>
struct Sums {
  T of[kRows][kColumns] = {};

  static FV_DEVICE int row() { return (int(threadIdx.x) / 64 * 4 + int(threadIdx.x) % 32 / 8) * kRows; }
  static FV_DEVICE int column() { return (int(threadIdx.x) / 32 % 2 * 8 + int(threadIdx.x) % 8) * kColumns; }

  FV_DEVICE Quad<T> quad(int i) const { return {of[i][0], of[i][1], of[i][2], of[i][3]}; }
};

// k in [0, last); `same`: both operands are a, which is read once
template <class T, class A, class B>
FV_DEVICE Sums<T> multiply(const Operand<A>& a, const Operand<B>& b, bool same, int64_t last) {
  FV_SHARED(Slab<T>, slabs, [2]);
  Loader<T, A> rows(a);
  Loader<T, B> columns(b);
  Sums<T> sums;
  const int row = Sums<T>::row() / 4, column = Sums<T>::column() / 4;
  const auto fetch = [&](int64_t first) {
    const int left = int(minimum(last - first, int64_t(kStep)));
    rows.fetch(left);
    if (!same) columns.fetch(left);
  };
  const Slab<T>& other = slabs[same ? 0 : 1];
  fetch(0);
  for (int64_t first = 0; first < last; first += kStep) {
    rows.store(slabs[0]);
    if (!same) columns.store(slabs[1]);
    __syncthreads();
    if (first + kStep < last) fetch(first + kStep);
#pragma unroll 8
    for (int k = 0; k < kStep; ++k) {
      const Quad<T> low = slabs[0][k][row], high = slabs[0][k][row + 1], right = other[k][column];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sums.of[i][j] += (i < 4 ? low.of[i] : high.of[i - 4]) * right.of[j];
      }
    }
    __syncthreads();
  }
  return sums;
}

}  // namespace fastvision::gram_matrix
