// multiscale_roi_align on CUDA: the kernels are roi_align's, which know levels.
#include "common/cuda_library.cuh"
#include "roi/multiscale_roi_align.h"
#include "roi/roi_align.cuh"

FV_CUDA_LIBRARY(m) {
  using namespace fastvision::roi_align;
  m.impl("multiscale_roi_align", TORCH_BOX(&multiscale_roi_align<Cuda>));
  m.impl("multiscale_roi_align_backward", TORCH_BOX(&multiscale_roi_align_backward<Cuda>));
  m.impl("multiscale_roi_align_box_gradients", TORCH_BOX(&multiscale_roi_align_box_gradients<Cuda>));
}
