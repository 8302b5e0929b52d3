// gram_matrix on CUDA, and its gradient.
#include "style/gram_matrix.cuh"
#include "style/gram_matrix_backward.cuh"

namespace fastvision::gram_matrix {
namespace {

// out [B, C, C]; grid: patches of the one layer
template <class T, class S>
__global__ void __launch_bounds__(kReducers) add_gram(const __grid_constant__ Layer<T, S> layer, S* __restrict__ out) {
  const Entry<T> entry = add_chunks(layer, blockIdx.x);
  if (!entry.any) return;
  const int64_t channels = layer.plan.p.channels;
  S* gram = out + entry.image * layer.plan.matrix();
  gram[entry.row * channels + entry.column] = gram[entry.column * channels + entry.row] = static_cast<S>(entry.value);
}

Tensor gram_matrix(const Tensor& features, int64_t divisor) {
  const double scale = scale_of(divisor);
  constexpr const char* kOp = "gram_matrix";
  const Tensor f = dense(features);
  const Plan plan = make_plan(make_params(kOp, f));
  const Tensor out = empty_tensor(f, {plan.p.batch, plan.p.channels, plan.p.channels});
  if (out.numel() == 0) return out;
  dispatch_floating(kOp, f.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor partial = empty_vector(f, plan.items() * plan.tile_size(), geometry_type(f.scalar_type()));
    Layers<T, S> layers{};
    layers.add({plan, f.const_data_ptr<S>(), partial.mutable_data_ptr<T>(), T(scale)});
    launch(kOp, &multiply_chunks<T, S>, {blocks_for(plan.items(), 1), kThreads, shared_bytes<T>()}, f, layers);
    launch(kOp, &add_gram<T, S>, {blocks_for(plan.patches(), 1), kReducers}, f, layers.layer[0],
           out.mutable_data_ptr<S>());
  });
  return out;
}

Tensor gram_matrix_backward(const Tensor& grad, const Tensor& features, int64_t divisor) {
  constexpr const char* kOp = "gram_matrix_backward";
  const Tensor f = dense(features);
  const Params p = check_backward(kOp, grad, f);
  Tensor out;
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using G = typename decltype(t)::type;
    const Gradient<G> gradient{grad.const_data_ptr<G>(), {grad.stride(0), 0, grad.stride(1), grad.stride(2)}};
    out = to_features<G>(kOp, {{p, gradient, f, scale_of(divisor)}})[0];
  });
  return out;
}

}  // namespace
}  // namespace fastvision::gram_matrix

FV_CUDA_LIBRARY(m) {
  m.impl("gram_matrix", TORCH_BOX(&fastvision::gram_matrix::gram_matrix));
  m.impl("gram_matrix_backward", TORCH_BOX(&fastvision::gram_matrix::gram_matrix_backward));
}
