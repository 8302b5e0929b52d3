// max_unpool2d on the CPU: every byte of the output is written to memory once, if the indices stay near their inputs.
//
// What does not is cleared as a whole and scattered to in order.
#include <torch/csrc/stable/library.h>

#include "upsample/max_unpool2d_channels.h"
#include "upsample/max_unpool2d_planes.h"

namespace fastvision::max_unpool2d {
namespace {

Tensor forward(const Tensor& input, const Tensor& indices, int64_t height, int64_t width) {
  constexpr const char* kOp = "max_unpool2d";
  const Params p = forward_params(kOp, input, indices, height, width);
  const bool channels_last = is_channels_last(input);
  Tensor output = empty_map(input, p.batch, p.channels, height, width, channels_last);
  if (input.numel() == 0) return clear_tensor(output);
  const Tensor wide = as_int64(indices);
  const Places places = read<int64_t>(wide);
  FirstWrong wrong;
  dispatch_words(input, [&](auto w) {
    using W = typename decltype(w)::type;
    (channels_last ? &unpool_channels<W> : &unpool_planes<W>)(p, read<W>(input), places, write<W>(output), wrong);
  });
  wrong.check(kOp, p, places);
  return output;
}

Tensor backward(const Tensor& grad, const Tensor& indices) {
  constexpr const char* kOp = "max_unpool2d_backward";
  const Params p = backward_params(kOp, grad, indices);
  const bool channels_last = is_channels_last(indices);
  Tensor output = empty_map(grad, p.batch, p.channels, p.height, p.width, channels_last);
  if (output.numel() == 0) return output;
  const Tensor flat = with_flat_planes(grad), wide = as_int64(indices);
  const Places places = read<int64_t>(wide);
  FirstWrong wrong;
  dispatch_words(grad, [&](auto w) {
    using W = typename decltype(w)::type;
    (channels_last ? &gather_channels<W> : &gather_planes<W>)(p, read<W>(flat), places, write<W>(output), wrong);
  });
  wrong.check(kOp, p, places);
  return output;
}

}  // namespace
}  // namespace fastvision::max_unpool2d

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("max_unpool2d", TORCH_BOX(&fastvision::max_unpool2d::forward));
  m.impl("max_unpool2d_backward", TORCH_BOX(&fastvision::max_unpool2d::backward));
}
