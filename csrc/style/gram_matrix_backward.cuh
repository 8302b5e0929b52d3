// The gradient of Gram matrices on CUDA, for gram_matrix and style_loss: one product with a symmetric matrix for each
// layer, two launches for all.
#pragma once

#include <algorithm>
#include <numeric>

#include "style/gram_matrix.cuh"

namespace fastvision::gram_matrix {

// grad [B, C, C] of any strides; the number above it, if there is one, is still on the device
template <class G>
struct Gradient {
  const G* data;
  Strides step;
  const G* above = nullptr;
};

// What a gradient is made of: scale * (grad + grad^T) features; features: dense
template <class G>
struct Source {
  Params p;
  Gradient<G> grad;
  Tensor features;
  double scale;
};

template <class T, class G, class S>
struct BackwardLayer {
  Params p;
  Gradient<G> grad;
  double scale;
  T* symmetric;  // [B, C, C]
  const S* features;
  S* out;

  FV_HOST_DEVICE int64_t numbers() const { return p.batch * p.channels * p.channels; }
  FV_HOST_DEVICE int64_t channel_tiles() const { return ceil_div(p.channels, int64_t(kTile)); }
  FV_HOST_DEVICE int64_t pixel_tiles() const { return ceil_div(p.pixels, int64_t(kTile)); }
  FV_HOST_DEVICE int64_t tiles() const { return p.batch * channel_tiles() * pixel_tiles(); }
};

// Blocks go through the layers one after the other.
template <class T, class G, class S>
struct BackwardLayers {
  int64_t count;
  int64_t first_block[kMostLayers + 1], first_tile[kMostLayers + 1];
  BackwardLayer<T, G, S> layer[kMostLayers];

  void add(const BackwardLayer<T, G, S>& next) {
    first_block[count + 1] = first_block[count] + ceil_div(next.numbers(), int64_t(kReducers));
    first_tile[count + 1] = first_tile[count] + next.tiles();
    layer[count++] = next;
  }
};

// symmetric = scale * (grad + grad^T) * above
template <class T, class G, class S>
__global__ void __launch_bounds__(kReducers) symmetrise(const __grid_constant__ BackwardLayers<T, G, S> layers) {
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= layers.first_block[l + 1]) ++l;
  const BackwardLayer<T, G, S>& layer = layers.layer[l];
  const Gradient<G>& grad = layer.grad;
  const int64_t e = (blockIdx.x - layers.first_block[l]) * kReducers + threadIdx.x, channels = layer.p.channels;
  if (e >= layer.numbers()) return;
  const int64_t i = e / channels % channels, j = e % channels;
  const G* image = grad.data + e / channels / channels * grad.step.n;
  const T a = static_cast<T>(image[i * grad.step.h + j * grad.step.w]),
          b = static_cast<T>(image[j * grad.step.h + i * grad.step.w]);
  layer.symmetric[e] = (a + b) * T(grad.above ? layer.scale * static_cast<double>(*grad.above) : layer.scale);
}

// out [B, C, H, W] = symmetric [B, C, C] times features. Columns of a tile are what lies side by side: pixels, or
// channels where they come last; the others are its rows. grid: tiles of all images of all layers
template <class T, class G, class S>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
    multiply_back(const __grid_constant__ BackwardLayers<T, G, S> layers) {
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= layers.first_tile[l + 1]) ++l;
  const BackwardLayer<T, G, S>& layer = layers.layer[l];
  const Params& p = layer.p;
  const bool last = p.channels_last;
  const unsigned item = unsigned(blockIdx.x - layers.first_tile[l]), channel_tiles = unsigned(layer.channel_tiles());
  const unsigned column_index = item / channel_tiles, pixel_tiles = unsigned(layer.pixel_tiles());
  const int64_t image = column_index / pixel_tiles, q = int64_t(column_index % pixel_tiles) * kTile;
  const int64_t c = int64_t(item - column_index * channel_tiles) * kTile;
  const int64_t start = image * p.channels * p.pixels, step = last ? p.channels : p.pixels;
  const Operand<T> weights{layer.symmetric + image * p.channels * p.channels + c, p.channels, 1, p.channels - c};
  const Operand<S> pixels{layer.features + start + q * (last ? p.channels : 1), last ? 1 : p.pixels,
                          last ? p.channels : 1, p.pixels - q};
  const int64_t rows = last ? pixels.count : weights.count, columns = last ? weights.count : pixels.count;
  S* target = layer.out + start + (last ? q * step + c : c * step + q);
  const auto store = [&](int row, int column, const auto& sums) {
    constexpr int kCount = sizeof(sums.of) / sizeof(T);
    if (row >= rows) return;
    Pack<S, kCount> stored;
    for (int j = 0; j < kCount; ++j) stored.of[j] = static_cast<S>(sums.of[j]);
    S* at = target + row * step + column;
    if (step % kCount == 0) {
      if (column < columns) *reinterpret_cast<Pack<S, kCount>*>(at) = stored;
    } else {
      for (int j = 0; j < kCount; ++j) {
        if (column + j < columns) at[j] = stored.of[j];
      }
    }
  };
  FV_DYNAMIC_SHARED(float, shared);
  if (last) {
    multiply<T>(pixels, weights, false, p.channels, shared, store);
  } else {
    multiply<T>(weights, pixels, false, p.channels, shared, store);
  }
}

// Sources [first, last), of one dtype; outputs where they go
template <class T, class G, class S>
void multiply_layers(const char* op, const std::vector<Source<G>>& sources, size_t first, size_t last,
                     const std::vector<Tensor>& outputs) {
  const Tensor& like = sources[first].features;
  int64_t size = 0;
  for (size_t l = first; l < last; ++l) size += sources[l].p.batch * sources[l].p.channels * sources[l].p.channels;
  const Tensor scratch = empty_vector(like, size, geometry_type(like.scalar_type()));
  T* symmetric = scratch.mutable_data_ptr<T>();
  // Those of most channels, whose blocks take longest, go first: a long block among the last ones runs alone.
  std::vector<size_t> order(last - first);
  std::iota(order.begin(), order.end(), first);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return sources[a].p.channels > sources[b].p.channels; });
  BackwardLayers<T, G, S> layers{};
  for (const size_t l : order) {
    const Source<G>& source = sources[l];
    layers.add({source.p, source.grad, source.scale, symmetric, source.features.template const_data_ptr<S>(),
                outputs[l].mutable_data_ptr<S>()});
    symmetric += layers.layer[layers.count - 1].numbers();
  }
  const int64_t blocks = layers.first_block[layers.count], tiles = layers.first_tile[layers.count];
  launch(op, &symmetrise<T, G, S>, {blocks_for(blocks, 1), kReducers}, like, layers);
  launch(op, &multiply_back<T, G, S>, {blocks_for(tiles, 1), kThreads, shared_bytes<T>()}, like, layers);
}

// The gradients of all sources, as their features lie in memory.
template <class G>
std::vector<Tensor> to_features(const char* op, const std::vector<Source<G>>& sources) {
  std::vector<Tensor> outputs;
  for (const auto& [p, grad, f, scale] : sources) {
    outputs.push_back(empty_map(f, f.size(0), f.size(1), f.size(2), f.size(3), p.channels_last));
  }
  for (size_t first = 0, last = 0; first < sources.size(); first = last) {
    const ScalarType type = sources[first].features.scalar_type();
    while (last < sources.size() && last - first < kMostLayers && sources[last].features.scalar_type() == type) ++last;
    dispatch_floating(op, type, [&](auto t) {
      using S = typename decltype(t)::type;
      multiply_layers<Accumulator<S>, G, S>(op, sources, first, last, outputs);
    });
  }
  return outputs;
}

}  // namespace fastvision::gram_matrix
