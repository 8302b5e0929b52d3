// Ranking on CUDA: indices by descending score, equal scores by index, NaN last.
#pragma once

#include "common/dispatch.h"
#include "common/launch.cuh"
#include "common/score_key.h"
#include "common/sort.h"

namespace fastvision {

// Ascending int64 keys for descending scores
template <class S>
__global__ void make_score_keys(const S* scores, int64_t n, int64_t* keys) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const auto key = descending_key(scores[i]);
  keys[i] = sizeof(key) == 8 ? int64_t(key ^ (uint64_t(1) << 63)) : int64_t(key);
}

// scores [rows * n] contiguous, float32 or float64 -> indices [rows, n] within each row
inline Tensor rank(const char* op, const Tensor& scores, int64_t rows, int64_t n) {
  constexpr int kThreads = 256;
  Tensor keys = empty_tensor(scores, {rows, n}, ScalarType::Long);
  dispatch_geometry(scores.scalar_type(), [&](auto s) {
    using S = typename decltype(s)::type;
    launch(op, &make_score_keys<S>, {blocks_for(rows * n, kThreads), kThreads}, scores, scores.const_data_ptr<S>(),
           rows * n, keys.mutable_data_ptr<int64_t>());
  });
  return stable_argsort(keys);
}

}  // namespace fastvision
