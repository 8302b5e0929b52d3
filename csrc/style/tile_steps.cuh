// The operands of a product of two tiles, a block each, kStep of k at a time in shared memory.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/async_copy.cuh"
#include "common/host_device.h"
#include "common/scalar.h"
#include "common/shared_memory.cuh"

namespace fastvision::gram_matrix {

constexpr int kTile = 64;      // rows and columns of a block
constexpr int kStep = 16;      // k at a time
constexpr int kThreads = 128;  // of a block
constexpr int kStages = 3;     // steps that are copied or computed at a time, where copies run by themselves

// Values [k, x] anywhere in memory, zeros for x >= count. One of the steps is 1.
template <class S>
struct Operand {
  const S* data;
  int64_t k_step, x_step, count;
};

// How a step of an operand lies in shared memory: [k, x] at k * kAlongK + x * kAlongX. The lanes of a warp that read 4
// of k and 8 of x, as tensor cores want them, meet 32 banks in either of the two orders.
template <class T, int kSlabAlongK, int kSlabAlongX>
struct Slab {
  static constexpr int kAlongK = kSlabAlongK, kAlongX = kSlabAlongX;
  alignas(16) T values[kAlongX == 1 ? kStep * kAlongK : kTile * kAlongX];

  static FV_DEVICE constexpr int at(int k, int x) { return k * kAlongK + x * kAlongX; }
};

using SlabOfX = Slab<float, kTile + 8, 1>;
using SlabOfK = Slab<float, 1, kStep + 4>;

// A thread's share of a step, through registers: one x and every second k, or one k and every eighth x, so that
// neighbouring threads read what lies side by side.
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
    T* at = slab.values + Slab::at(k_, x_);
    const int next = along_x_ ? Slab::at(kEveryK, 0) : Slab::at(0, kEveryX);
#pragma unroll
    for (int i = 0; i < kEach; ++i) at[i * next] = static_cast<T>(values_[i]);
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

// Goes through k in [0, last): use(rows, columns) of each kStep. rows are columns where `same`, and read once. The next
// step is on its way to registers while one is used. shared: two slabs.
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

// The same by copies that run by themselves, 16 bytes each. shared: two slabs for each of kStages.
template <class Slab>
class Copier {
 public:
  FV_DEVICE explicit Copier(const Operand<float>& from)
      : from_(from), count_(int(minimum(from.count, int64_t(kTile)))) {}

  // Whether all that is copied begins at a multiple of 16 bytes.
  static FV_DEVICE bool fits(const Operand<float>& from) {
    const int64_t inner = kOfX ? from.x_step : from.k_step, outer = kOfX ? from.k_step : from.x_step;
    return inner == 1 && outer % kEach == 0 && reinterpret_cast<uintptr_t>(from.data) % 16 == 0;
  }

  // kStep of k from `first` on, zeros from `left` on.
  FV_DEVICE void fetch(Slab& slab, int64_t first, int left) const {
    constexpr int kAcross = (kOfX ? kTile : kStep) / kEach;  // copies of one line
#pragma unroll
    for (int i = threadIdx.x; i < kTile * kStep / kEach; i += kThreads) {
      const int line = i / kAcross, at = i % kAcross * kEach;
      const int k = kOfX ? line : at, x = kOfX ? at : line;
      const int some = kOfX ? (k < left ? count_ - x : 0) : (x < count_ ? left - k : 0);
      const int bytes = minimum(some > 0 ? some : 0, kEach) * int(sizeof(float));
      const float* source = from_.data + (first + k) * from_.k_step + x * from_.x_step;
      copy_16_async(slab.values + Slab::at(k, x), bytes > 0 ? source : from_.data, bytes);
    }
  }

 private:
  static constexpr bool kOfX = Slab::kAlongX == 1;
  static constexpr int kEach = 4;

  Operand<float> from_;
  int count_;
};

template <class Slab, class Use>
FV_DEVICE void for_each_copied_step(const Operand<float>& a, const Operand<float>& b, bool same, int64_t last,
                                    void* shared, const Use& use) {
  Slab* slabs = static_cast<Slab*>(shared);
  const Copier<Slab> rows(a), columns(b);
  const auto fetch = [&](int64_t first, int stage) {
    if (first < last) {
      const int left = int(minimum(last - first, int64_t(kStep)));
      rows.fetch(slabs[2 * stage], first, left);
      if (!same) columns.fetch(slabs[2 * stage + 1], first, left);
    }
    end_copy_group();
  };
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage * kStep, stage);
  int stage = 0, free = kStages - 1;
  for (int64_t first = 0; first < last; first += kStep) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // all have copied this step, and used the one before, whose place is free
    fetch(first + (kStages - 1) * kStep, free);
    use(slabs[2 * stage], slabs[2 * stage + (same ? 0 : 1)]);
    free = stage, stage = stage + 1 == kStages ? 0 : stage + 1;
  }
}

}  // namespace fastvision::gram_matrix
