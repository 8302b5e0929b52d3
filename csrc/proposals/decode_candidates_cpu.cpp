// decode_candidates on the CPU.
#include "common/rows.h"
#include "proposals/decode_candidates.h"

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("decode_candidates", TORCH_BOX(&fastvision::decode_candidates::decode_candidates<fastvision::CpuRows>));
}
