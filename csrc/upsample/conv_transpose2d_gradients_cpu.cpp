// The gradients of conv_transpose2d on the CPU.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "common/turn.h"
#include "upsample/depthwise_gradients.h"
#include "upsample/diagonal.h"
#include "upsample/gradient_products.h"

namespace fastvision::conv_transpose2d {
namespace {

// last: the result is in channels_last, whatever grad is.
template <class T, class S>
Tensor input_gradient(const Params& p, const Tensor& grad, const Tensor& weight, bool last) {
  if (p.outputs == 0) return clear_tensor(empty_map(grad, p.batch, p.channels, p.y.in, p.x.in, last));
  const S* weights = weight.const_data_ptr<S>();
  const bool diagonal = is_diagonal(p, weights), planes = diagonal || p.group_channels() == 1;
  Tensor output = empty_map(grad, p.batch, p.channels, p.y.in, p.x.in, last);
  if (output.numel() == 0) return output;
  if (planes) {
    const Buffer<T> kernels = kernels_of<T>(p, weights, diagonal);
    Params depthwise = p;
    depthwise.groups = p.channels;
    Buffer<S> turned(size_t(last ? output.numel() : 0));
    S* target = last ? turned.data() : output.mutable_data_ptr<S>();
    input_gradient_planes<T, S>(depthwise, in_layout(grad, false).const_data_ptr<S>(), kernels.data(), target);
    if (last) turn(target, p.batch, p.channels, p.y.in * p.x.in, output.mutable_data_ptr<S>());
  } else {
    input_gradient_products<T, S>(p, grad.const_data_ptr<S>(),
                                  dense_strides(p.outputs, p.y.out, p.x.out, is_channels_last(grad)), weights,
                                  output.mutable_data_ptr<S>(), dense_strides(p.channels, p.y.in, p.x.in, last));
  }
  return output;
}

template <class T, class S>
Tensor weight_gradient(const Params& p, const Tensor& grad, const Tensor& input) {
  Tensor output = empty_tensor(grad, {p.channels, p.group_outputs(), p.y.kernel, p.x.kernel});
  if (output.numel() == 0) return output;
  if (p.group_channels() == 1) {
    kernel_gradients<T, S>(p, in_layout(grad, false).const_data_ptr<S>(), in_layout(input, false).const_data_ptr<S>(),
                           output.mutable_data_ptr<S>());
  } else {
    weight_gradient_products<T, S>(
        p, grad.const_data_ptr<S>(), dense_strides(p.outputs, p.y.out, p.x.out, is_channels_last(grad)),
        input.const_data_ptr<S>(), dense_strides(p.channels, p.y.in, p.x.in, is_channels_last(input)),
        output.mutable_data_ptr<S>());
  }
  return output;
}

Tensor input_gradient_op(const Tensor& grad, const Tensor& weight, std::vector<int64_t> geometry, bool channels_last) {
  constexpr const char* kOp = "conv_transpose2d_input_gradient";
  const Params p = gradient_params(kOp, grad, "weight", weight, true, geometry);
  return dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    return input_gradient<Accumulator<S>, S>(p, dense(grad), contiguous_as(weight, weight.scalar_type()),
                                             channels_last);
  });
}

Tensor weight_gradient_op(const Tensor& grad, const Tensor& input, std::vector<int64_t> geometry) {
  constexpr const char* kOp = "conv_transpose2d_weight_gradient";
  const Params p = gradient_params(kOp, grad, "input", input, false, geometry);
  return dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    return weight_gradient<Accumulator<S>, S>(p, dense(grad), dense(input));
  });
}

}  // namespace
}  // namespace fastvision::conv_transpose2d

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("conv_transpose2d_input_gradient", TORCH_BOX(&fastvision::conv_transpose2d::input_gradient_op));
  m.impl("conv_transpose2d_weight_gradient", TORCH_BOX(&fastvision::conv_transpose2d::weight_gradient_op));
}
