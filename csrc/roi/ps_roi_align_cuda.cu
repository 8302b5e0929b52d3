// ps_roi_align on CUDA.
#include "roi/position_sensitive.cuh"
#include "roi/ps_roi_align.h"

FV_CUDA_LIBRARY(m) {
  using namespace fastvision::position_sensitive;
  m.impl("ps_roi_align", TORCH_BOX(&ps_roi_align<Cuda>));
  m.impl("ps_roi_align_backward", TORCH_BOX(&ps_roi_align_backward<Cuda>));
}
