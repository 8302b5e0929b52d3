// What the stable ABI has no function for, through the dispatcher.
#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>

namespace fastvision {

// Indices that sort `keys` [.., N] ascending along the last dimension, equal keys by index: aten::sort.stable.
inline torch::stable::Tensor stable_argsort(const torch::stable::Tensor& keys) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(keys), from(std::optional<bool>(true)), from(int64_t{-1}), from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  to<torch::stable::Tensor>(stack[0]);  // the sorted keys: taken over, and freed
  return to<torch::stable::Tensor>(stack[1]);
}

}  // namespace fastvision
