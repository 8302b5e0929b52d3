// ps_roi_pool on CUDA.
#include "roi/position_sensitive.cuh"
#include "roi/ps_roi_pool.h"

FV_CUDA_LIBRARY(m) {
  using namespace fastvision::position_sensitive;
  m.impl("ps_roi_pool", TORCH_BOX(&ps_roi_pool<Cuda>));
  m.impl("ps_roi_pool_backward", TORCH_BOX(&ps_roi_pool_backward<Cuda>));
}
