// torch's transposed convolution, through the dispatcher.
#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <vector>

namespace fastvision {

// The same numbers, of which autocast knows nothing: it keeps its copies of parameters for whoever uses them next, and
// one that is made here, below autograd, would have no gradient.
inline torch::stable::Tensor detached(const torch::stable::Tensor& t) {
  std::array<StableIValue, 1> stack{torch::stable::detail::from(t)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::detach", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
}

// input [N, C, H, W], weight [C, O, s, s] -> [N, O, s H, s W], windows side by side. Inside autocast in its dtype.
inline torch::stable::Tensor torch_conv_transpose2d(const torch::stable::Tensor& input,
                                                    const torch::stable::Tensor& weight, int64_t stride) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  using Sizes = std::vector<int64_t>;
  std::array<StableIValue, 8> stack{from(detached(input)),
                                    from(detached(weight)),
                                    from(std::optional<torch::stable::Tensor>()),
                                    from(Sizes{stride, stride}),
                                    from(Sizes{0, 0}),
                                    from(Sizes{0, 0}),
                                    from(int64_t{1}),
                                    from(Sizes{1, 1})};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::conv_transpose2d", "input", stack.data(), TORCH_ABI_VERSION));
  return to<torch::stable::Tensor>(stack[0]);
}

}  // namespace fastvision
