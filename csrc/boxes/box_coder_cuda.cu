// encode_boxes and decode_boxes on CUDA.
#include "boxes/box_coder_ops.h"
#include "common/cuda_library.cuh"
#include "common/rows.cuh"

FV_CUDA_LIBRARY(m) { fastvision::box_coder::register_ops<fastvision::CudaRows>(m); }
