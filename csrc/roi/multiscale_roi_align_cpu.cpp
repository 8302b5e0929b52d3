// multiscale_roi_align on the CPU: the kernels are roi_align's, which know levels.
#include <torch/csrc/stable/library.h>

#include "roi/multiscale_roi_align.h"
#include "roi/roi_align_cpu.h"

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  using namespace fastvision::roi_align;
  m.impl("multiscale_roi_align", TORCH_BOX(&multiscale_roi_align<Cpu>));
  m.impl("multiscale_roi_align_backward", TORCH_BOX(&multiscale_roi_align_backward<Cpu>));
  m.impl("multiscale_roi_align_box_gradients", TORCH_BOX(&multiscale_roi_align_box_gradients<Cpu>));
}
