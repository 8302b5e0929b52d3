// The gradient of a Gram matrix on CUDA, for gram_matrix and style_loss: one product with a symmetric matrix.
#pragma once

#include "style/gram_matrix.cuh"

namespace fastvision::gram_matrix {

// grad [B, C, C] of any strides; the number above it, if there is one, is still on the device
template <class G>
struct Gradient {
  const G* data;
  Strides step;
  const G* above = nullptr;
};

// out [B, C, C] = scale * (grad + grad^T) * above
template <class T, class G>
__global__ void __launch_bounds__(kReducers)
    symmetrise(const Gradient<G> grad, int64_t channels, int64_t count, double scale, T* __restrict__ out) {
  const int64_t e = int64_t(blockIdx.x) * kReducers + threadIdx.x;
  if (e >= count) return;
  const int64_t i = e / channels % channels, j = e % channels;
  const G* image = grad.data + e / channels / channels * grad.step.n;
  const T a = static_cast<T>(image[i * grad.step.h + j * grad.step.w]),
          b = static_cast<T>(image[j * grad.step.h + i * grad.step.w]);
  out[e] = (a + b) * T(grad.above ? scale * static_cast<double>(*grad.above) : scale);
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

// scale * (grad + grad^T) features; features: dense
template <class G>
Tensor to_features(const char* op, const Params& p, const Gradient<G>& grad, const Tensor& features, double scale) {
  const Tensor& f = features;
  const Tensor out = empty_map(f, f.size(0), f.size(1), f.size(2), f.size(3), p.channels_last);
  if (out.numel() == 0) return out;
  dispatch_floating(op, f.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor symmetric =
        torch::stable::new_empty(f, {p.batch, p.channels, p.channels}, geometry_type(f.scalar_type()));
    launch(op, &symmetrise<T, G>, {blocks_for(symmetric.numel(), kReducers), kReducers}, f, grad, p.channels,
           symmetric.numel(), scale, symmetric.mutable_data_ptr<T>());
    const int64_t tiles = ceil_div(p.channels, int64_t(kTile)) * ceil_div(p.pixels, int64_t(kTile));
    const auto kernel = p.channels_last ? &multiply_back<T, S, true> : &multiply_back<T, S, false>;
    launch(op, kernel, {blocks_for(p.batch * tiles, 1), kThreads}, f, p, symmetric.const_data_ptr<T>(),
           f.const_data_ptr<S>(), out.mutable_data_ptr<S>());
  });
  return out;
}

}  // namespace fastvision::gram_matrix
