// Independent rows on CUDA: one thread a row. A row is a plain struct that a kernel can take by value.
#pragma once

#include "common/checks.h"
#include "common/launch.cuh"

namespace fastvision {

template <class Row>
__global__ void for_each_row(Row row, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) row(i);
}

// Runs row(i) for each of `count` rows.
struct CudaRows {
  static constexpr bool kOnHost = false;  // the data can be looked at

  template <class Row>
  static void run(const char* op, const Tensor& like, int64_t count, const Row& row) {
    launch(op, &for_each_row<Row>, {blocks_for(count, 256), 256}, like, row, count);
  }
};

}  // namespace fastvision
