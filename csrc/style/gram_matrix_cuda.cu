// gram_matrix on CUDA, and its gradient.
#include "style/gram_matrix.cuh"

namespace fastvision::gram_matrix {
namespace {

// out [B, C, C]; grid: patches of the one layer
template <class T, class S>
__global__ void __launch_bounds__(kReducers) add_gram(const __grid_constant__ Layer<T, S> layer, S* __restrict__ out) {
  const Entry<T> entry = add_chunks(layer, int64_t(blockIdx.x));
  if (!entry.any) return;
  const int64_t channels = layer.plan.p.channels;
  S* gram = out + entry.image * layer.plan.matrix();
  gram[entry.row * channels + entry.column] = gram[entry.column * channels + entry.row] = static_cast<S>(entry.value);
}

// out [B, C, C] = scale * (grad + grad^T), grad of any strides
template <class T, class G>
__global__ void __launch_bounds__(kReducers) symmetrise(const G* __restrict__ grad, Strides step, int64_t channels,
                                                        int64_t count, T scale, T* __restrict__ out) {
  const int64_t e = int64_t(blockIdx.x) * kReducers + threadIdx.x;
  if (e >= count) return;
  const int64_t i = e / channels % channels, j = e % channels;
  const G* image = grad + e / channels / channels * step.n;
  out[e] = (static_cast<T>(image[i * step.h + j * step.w]) + static_cast<T>(image[j * step.h + i * step.w])) * scale;
}

// out [B, C, H, W] = symmetric [B, C, C] times features. Columns of a tile are what lies side by side: pixels, or
// channels where they come last; the others are its rows. grid: tiles of all images
template <class T, class S, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
    multiply_back(const Params p, const T* __restrict__ symmetric, const S* __restrict__ features,
                  S* __restrict__ out) {
  const int64_t channel_tiles = ceil_div(p.channels, int64_t(kTile)), pixel_tiles = ceil_div(p.pixels, int64_t(kTile));
  const int64_t image = blockIdx.x / (channel_tiles * pixel_tiles), tile = blockIdx.x % (channel_tiles * pixel_tiles);
  const int64_t c = tile % channel_tiles * kTile, q = tile / channel_tiles * kTile;
  const int64_t start = image * p.channels * p.pixels;
  const Operand<T> weights{symmetric + image * p.channels * p.channels + c, p.channels, 1, p.channels - c};
  Sums<T> sums;
  if constexpr (kChannelsLast) {
    const Operand<S> pixels{features + start + q * p.channels, 1, p.channels, p.pixels - q};
    sums = multiply<T>(pixels, weights, false, p.channels);
  } else {
    const Operand<S> pixels{features + start + q, p.pixels, 1, p.pixels - q};
    sums = multiply<T>(weights, pixels, false, p.channels);
  }
  const int64_t step = kChannelsLast ? p.channels : p.pixels;
  const int64_t rows = kChannelsLast ? p.pixels - q : p.channels - c,
                columns = kChannelsLast ? weights.count : p.pixels - q;
  const int row = sums.row(), column = sums.column();
  S* target = out + start + (kChannelsLast ? q * step + c : c * step + q) + row * step + column;
#pragma unroll
  for (int i = 0; i < kRows; ++i, target += step) {
    if (row + i >= rows) break;
    Quad<S> quad;
    for (int j = 0; j < kColumns; ++j) quad.of[j] = static_cast<S>(sums.of[i][j]);
    if (step % kColumns == 0) {
      if (column < columns) *reinterpret_cast<Quad<S>*>(target) = quad;
    } else {
      for (int j = 0; j < kColumns; ++j) {
        if (column + j < columns) target[j] = quad.of[j];
      }
    }
  }
}

Tensor gram_matrix(const Tensor& features, int64_t divisor) {
  const double scale = scale_of(divisor);
  constexpr const char* kOp = "gram_matrix";
  const Tensor f = dense(features);
  const Plan plan = make_plan(make_params(kOp, f));
  const Tensor out = torch::stable::new_empty(f, {plan.p.batch, plan.p.channels, plan.p.channels});
  if (out.numel() == 0) return out;
  dispatch_floating(kOp, f.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor partial =
        torch::stable::new_empty(f, {plan.items() * plan.tile_size()}, geometry_type(f.scalar_type()));
    Layers<T, S> layers{};
    layers.add({plan, f.const_data_ptr<S>(), partial.mutable_data_ptr<T>(), T(scale)});
    launch(kOp, &multiply_chunks<T, S>, {blocks_for(plan.items(), 1), kThreads}, f, layers);
    launch(kOp, &add_gram<T, S>, {blocks_for(plan.patches(), 1), kReducers}, f, layers.layer[0],
           out.mutable_data_ptr<S>());
  });
  return out;
}

Tensor gram_matrix_backward(const Tensor& grad, const Tensor& features, int64_t divisor) {
  const double scale = scale_of(divisor);
  constexpr const char* kOp = "gram_matrix_backward";
  const Tensor f = dense(features);
  const Params p = check_backward(kOp, grad, f);
  const Tensor out = empty_map(f, f.size(0), f.size(1), f.size(2), f.size(3), p.channels_last);
  if (out.numel() == 0) return out;
  dispatch_floating(kOp, f.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor symmetric =
        torch::stable::new_empty(f, {p.batch, p.channels, p.channels}, geometry_type(f.scalar_type()));
    dispatch_floating(kOp, grad.scalar_type(), [&](auto g) {
      using G = typename decltype(g)::type;
      const Strides step{grad.stride(0), 0, grad.stride(1), grad.stride(2)};
      launch(kOp, &symmetrise<T, G>, {blocks_for(symmetric.numel(), kReducers), kReducers}, f, grad.const_data_ptr<G>(),
             step, p.channels, symmetric.numel(), T(scale), symmetric.mutable_data_ptr<T>());
    });
    const int64_t tiles = ceil_div(p.channels, int64_t(kTile)) * ceil_div(p.pixels, int64_t(kTile));
    const auto kernel = p.channels_last ? &multiply_back<T, S, true> : &multiply_back<T, S, false>;
    launch(kOp, kernel, {blocks_for(p.batch * tiles, 1), kThreads}, f, p, symmetric.const_data_ptr<T>(),
           f.const_data_ptr<S>(), out.mutable_data_ptr<S>());
  });
  return out;
}

}  // namespace
}  // namespace fastvision::gram_matrix

FV_CUDA_LIBRARY(m) {
  m.impl("gram_matrix", TORCH_BOX(&fastvision::gram_matrix::gram_matrix));
  m.impl("gram_matrix_backward", TORCH_BOX(&fastvision::gram_matrix::gram_matrix_backward));
}
