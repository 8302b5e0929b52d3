// A map as channels_last or as planes, on the CPU.
#include <torch/csrc/stable/library.h>

#include "common/turn.h"

namespace fastvision::to_layout {
namespace {

Tensor to_layout(const Tensor& map, bool channels_last) {
  constexpr const char* kOp = "to_layout";
  check_floating(kOp, "map", map);
  FV_CHECK(map.dim() == 4, kOp, "expected map of shape [N, C, H, W], got ", shape_of(map));
  const Tensor result = in_layout(dense(map), channels_last);
  return result.get() == map.get() ? torch::stable::clone(result) : result;  // an op returns none of its inputs
}

}  // namespace
}  // namespace fastvision::to_layout

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) { m.impl("to_layout", TORCH_BOX(&fastvision::to_layout::to_layout)); }
