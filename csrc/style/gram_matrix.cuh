// Gram matrices on CUDA, for gram_matrix and style_loss: the lower tiles, one block a tile and chunk of pixels; then
// the chunks are added in order. They depend on the shape of one image alone: every run adds the same numbers.
#pragma once

#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "common/scalar.h"
#include "style/gram_matrix.h"
#include "style/tile_product.cuh"

namespace fastvision::gram_matrix {

constexpr int kMostLayers = kMostLevels;  // of one launch
constexpr int kReducers = 256;            // threads that add chunks
constexpr int kWide = 8;                  // columns of a patch: 32 bytes of float32

// How the work is cut.
struct Plan {
  Params p;
  int64_t tiles;   // of one matrix, on or below the diagonal
  int64_t side;    // of a tile as it is stored
  int64_t chunk;   // pixels
  int64_t chunks;  // of an image
  int64_t slices;  // threads that share the chunks of one sum

  FV_HOST_DEVICE int64_t items() const { return p.batch * chunks * tiles; }
  FV_HOST_DEVICE int64_t tile_size() const { return side * side; }
  FV_HOST_DEVICE int64_t matrix() const { return p.channels * p.channels; }
  // A block adds the chunks of a patch, kWide columns of a tile.
  FV_HOST_DEVICE int64_t patch_rows() const { return kReducers / kWide / slices; }
  FV_HOST_DEVICE int64_t patches_of_tile() const { return side / kWide * ceil_div(side, patch_rows()); }
  FV_HOST_DEVICE int64_t patches() const { return p.batch * tiles * patches_of_tile(); }
};

inline Plan make_plan(const Params& p) {
  constexpr int64_t kBlocks = 264;  // of one image: two on each multiprocessor of an H100
  constexpr int64_t kLeast = 128;   // pixels that are worth a block
  Plan plan{p, 0, 0, 0, 0, 1};
  const int64_t rows = ceil_div(p.channels, int64_t(kTile));
  plan.tiles = rows * (rows + 1) / 2;
  plan.side = std::min<int64_t>(kTile, ceil_div(p.channels, int64_t(kWide)) * kWide);
  if (plan.tiles == 0) return plan;
  // no more partial sums than features, unless there is one chunk
  const int64_t least = std::max(kLeast, ceil_div(plan.tiles * plan.tile_size(), p.channels));
  plan.chunk = std::max(least, ceil_div(p.pixels, ceil_div(kBlocks, plan.tiles)));
  plan.chunk = ceil_div(plan.chunk, int64_t(kStep)) * kStep;
  plan.chunks = std::max<int64_t>(1, ceil_div(p.pixels, plan.chunk));
  while (plan.slices < 16 && plan.slices * 16 <= plan.chunks) plan.slices *= 2;  // of at least eight chunks
  return plan;
}

template <class T, class S>
struct Layer {
  Plan plan;
  const S* features;  // [B, C, H, W]
  T* partial;         // [B, chunks, tiles, side, side]
  T scale;
  // of style_loss
  const T* target = nullptr;  // [C, C], or [B, C, C] with a target_step of C * C
  int64_t target_step = 0;
  T* differences = nullptr;  // [B, C, C]
  double weight = 0;
};

// Blocks go through the layers one after the other.
template <class T, class S>
struct Layers {
  int64_t count;
  int64_t first_item[kMostLayers + 1], first_patch[kMostLayers + 1];
  Layer<T, S> layer[kMostLayers];
  unsigned* cleared = nullptr;  // a number for a later launch to count with

  void add(const Layer<T, S>& next) {
    first_item[count + 1] = first_item[count] + next.plan.items();
    first_patch[count + 1] = first_patch[count] + next.plan.patches();
    layer[count++] = next;
  }
};

// Row and column of tile t; tiles go row by row.
struct Position {
  int64_t row = 0, column;

  FV_DEVICE explicit Position(int64_t t) : column(t) {
    for (; column > row; ++row) column -= row + 1;
  }
};

// grid: items of all layers
template <class T, class S>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
    multiply_chunks(const __grid_constant__ Layers<T, S> layers) {
  if (layers.cleared && blockIdx.x == 0 && threadIdx.x == 0) *layers.cleared = 0;
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= layers.first_item[l + 1]) ++l;
  const Layer<T, S>& layer = layers.layer[l];
  const Plan& plan = layer.plan;
  const Params& p = plan.p;
  const int64_t item = blockIdx.x - layers.first_item[l], chunk = item / plan.tiles % plan.chunks;
  const Position tile(item % plan.tiles);
  const int64_t begin = chunk * plan.chunk, pixels = minimum(p.pixels - begin, plan.chunk);
  const int64_t pixel_step = p.channels_last ? p.channels : 1, channel_step = p.channels_last ? 1 : p.pixels;
  const S* image = layer.features + item / plan.tiles / plan.chunks * p.channels * p.pixels + begin * pixel_step;
  const auto operand = [&](int64_t first) {
    return Operand<S>{image + first * channel_step, pixel_step, channel_step, p.channels - first};
  };
  const Operand<S> a = operand(tile.row * kTile), b = operand(tile.column * kTile);
  T* partial = layer.partial + item * plan.tile_size();
  FV_DYNAMIC_SHARED(float, shared);
  multiply<T>(a, b, tile.row == tile.column, pixels, shared, [&](int row, int column, const auto& sums) {
    if (row >= plan.side || column >= plan.side) return;
    *reinterpret_cast<std::decay_t<decltype(sums)>*>(partial + row * plan.side + column) = sums;
  });
}

// One number of the lower half.
template <class T>
struct Entry {
  bool any;
  int64_t image, row, column;
  T value;
};

// The chunks of one entry, slice by slice: chunks s, s + slices, ... of slice s. All threads of a block come here.
template <class T, class S>
FV_DEVICE Entry<T> add_chunks(const Layer<T, S>& layer, int64_t patch) {
  FV_SHARED(T, partial, [kReducers]);
  const Plan& plan = layer.plan;
  const int64_t of_tile = plan.patches_of_tile(), q = patch % of_tile, t = patch / of_tile;
  const int64_t image = t / plan.tiles, count = kReducers / plan.slices;
  const int64_t e = threadIdx.x % count, slice = threadIdx.x / count, across = plan.side / kWide;
  const int64_t row = q / across * plan.patch_rows() + e / kWide, column = q % across * kWide + e % kWide;
  const Position tile(t % plan.tiles);
  Entry<T> entry{false, image, tile.row * kTile + row, tile.column * kTile + column, T(0)};
  entry.any = entry.row < plan.p.channels && entry.column <= entry.row;
  if (entry.any) {
    const int64_t step = plan.tiles * plan.tile_size();  // from chunk to chunk
    const T* source = layer.partial + (image * plan.chunks * plan.tiles + t % plan.tiles) * plan.tile_size() +
                      row * plan.side + column;
    for (int64_t c = slice; c < plan.chunks; c += plan.slices) entry.value += source[c * step];
  }
  partial[threadIdx.x] = entry.value;
  __syncthreads();
  if (slice > 0) entry.any = false;  // the first slice speaks for all
  for (int64_t s = 1; s < plan.slices && entry.any; ++s) entry.value += partial[s * count + e];
  entry.value *= layer.scale;
  return entry;
}

}  // namespace fastvision::gram_matrix
