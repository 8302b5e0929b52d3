// encode_boxes and decode_boxes on the CPU.
#include <torch/csrc/stable/library.h>

#include "boxes/box_coder_ops.h"
#include "common/rows.h"

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) { fastvision::box_coder::register_ops<fastvision::CpuRows>(m); }
