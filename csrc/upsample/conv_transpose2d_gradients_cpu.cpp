// The gradients of conv_transpose2d on the CPU.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "common/recycled.h"
#include "upsample/gradient_products.h"

namespace fastvision::conv_transpose2d {
namespace {

Tensor input_gradient(const Tensor& grad, const Tensor& weight, std::vector<int64_t> geometry) {
  constexpr const char* kOp = "conv_transpose2d_input_gradient";
  const Tensor g = dense(grad);
  const Params p = gradient_params(kOp, g, "weight", weight, true, geometry);
  const bool last = is_channels_last(g);
  Tensor output = empty_map(g, p.batch, p.channels, p.y.in, p.x.in, last);
  reuse_memory(output);
  if (output.numel() == 0) return output;
  dispatch_floating(kOp, g.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    const Tensor w = contiguous_as(weight, g.scalar_type());
    input_gradient_products<Accumulator<S>, S>(
        p, g.const_data_ptr<S>(), dense_strides(p.outputs, p.y.out, p.x.out, last), w.const_data_ptr<S>(),
        output.mutable_data_ptr<S>(), dense_strides(p.channels, p.y.in, p.x.in, last));
  });
  return output;
}

Tensor weight_gradient(const Tensor& grad, const Tensor& input, std::vector<int64_t> geometry) {
  constexpr const char* kOp = "conv_transpose2d_weight_gradient";
  const Tensor g = dense(grad), x = dense(input);
  const Params p = gradient_params(kOp, g, "input", x, false, geometry);
  Tensor output = empty_tensor(g, {p.channels, p.group_outputs(), p.y.kernel, p.x.kernel});
  reuse_memory(output);
  dispatch_floating(kOp, g.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    weight_gradient_products<Accumulator<S>, S>(
        p, g.const_data_ptr<S>(), dense_strides(p.outputs, p.y.out, p.x.out, is_channels_last(g)),
        x.const_data_ptr<S>(), dense_strides(p.channels, p.y.in, p.x.in, is_channels_last(x)),
        output.mutable_data_ptr<S>());
  });
  return output;
}

}  // namespace
}  // namespace fastvision::conv_transpose2d

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("conv_transpose2d_input_gradient", TORCH_BOX(&fastvision::conv_transpose2d::input_gradient));
  m.impl("conv_transpose2d_weight_gradient", TORCH_BOX(&fastvision::conv_transpose2d::weight_gradient));
}
