// encode_boxes and decode_boxes on CUDA: one thread a row.
#include "boxes/box_coder_ops.h"
#include "common/cuda_library.cuh"

namespace fastvision::box_coder {
namespace {

template <class Row>
__global__ void for_each_row(Row row, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) row(i);
}

struct CudaRows {
  template <class Row>
  static void run(const char* op, const Tensor& like, int64_t count, const Row& row) {
    launch(op, &for_each_row<Row>, {blocks_for(count, 256), 256}, like, row, count);
  }
};

}  // namespace
}  // namespace fastvision::box_coder

FV_CUDA_LIBRARY(m) {
  using namespace fastvision::box_coder;
  register_ops<CudaRows>(m);
}
