// decode_candidates on CUDA.
#include "common/cuda_library.cuh"
#include "common/rows.cuh"
#include "proposals/decode_candidates.h"

FV_CUDA_LIBRARY(m) {
  m.impl("decode_candidates", TORCH_BOX(&fastvision::decode_candidates::decode_candidates<fastvision::CudaRows>));
}
