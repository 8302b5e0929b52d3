// ps_roi_align on the CPU.
#include "roi/position_sensitive_cpu.h"
#include "roi/ps_roi_align.h"

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  using namespace fastvision::position_sensitive;
  m.impl("ps_roi_align", TORCH_BOX(&ps_roi_align<Cpu>));
  m.impl("ps_roi_align_backward", TORCH_BOX(&ps_roi_align_backward<Cpu>));
}
