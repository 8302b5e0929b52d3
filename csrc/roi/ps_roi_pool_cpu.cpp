// ps_roi_pool on the CPU.
#include "roi/position_sensitive_cpu.h"
#include "roi/ps_roi_pool.h"

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  using namespace fastvision::position_sensitive;
  m.impl("ps_roi_pool", TORCH_BOX(&ps_roi_pool<Cpu>));
  m.impl("ps_roi_pool_backward", TORCH_BOX(&ps_roi_pool_backward<Cpu>));
}
