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

// How the work is cut. Blocks count in 32 bits, which divide faster.
struct Plan {
  Params p;
  unsigned tiles;   // of one matrix, on or below the diagonal
  unsigned side;    // of a tile as it is stored
  int64_t chunk;    // pixels
  unsigned chunks;  // of an image
  // A block adds the chunks of a patch, kWide columns of a tile.
  unsigned slices;  // threads that share the chunks of one sum
  unsigned patch_rows, patches_of_tile;

  FV_HOST_DEVICE int64_t items() const { return p.batch * chunks * tiles; }
  FV_HOST_DEVICE int64_t tile_size() const { return int64_t(side) * side; }
  FV_HOST_DEVICE int64_t matrix() const { return p.channels * p.channels; }
  FV_HOST_DEVICE int64_t patches() const { return p.batch * tiles * patches_of_tile; }
};

inline Plan make_plan(const Params& p) {
  constexpr int64_t kBlocks = 264;  // of one image: two on each multiprocessor of an H100
  constexpr int64_t kLeast = 128;   // pixels that are worth a block
  const int64_t rows = ceil_div(p.channels, int64_t(kTile)), tiles = rows * (rows + 1) / 2;
  const int64_t side = std::min<int64_t>(kTile, ceil_div(p.channels, int64_t(kWide)) * kWide);
  if (tiles == 0) return {p, 0, unsigned(side), 0, 0, 1, 0, 0};
  // no more than two partial sums for each feature, unless there is one chunk
  const int64_t least = std::max(kLeast, ceil_div(tiles * side * side, 2 * p.channels));
  const int64_t pixels = std::max(least, ceil_div(p.pixels, ceil_div(kBlocks, tiles)));
  const int64_t chunk = ceil_div(pixels, int64_t(kStep)) * kStep;
  const int64_t chunks = std::max<int64_t>(1, ceil_div(p.pixels, chunk));
  unsigned slices = 1;
  while (slices < 16 && slices * 16 <= chunks) slices *= 2;  // of at least eight chunks
  const unsigned patch_rows = kReducers / kWide / slices;
  return {p,
          unsigned(tiles),
          unsigned(side),
          chunk,
          unsigned(chunks),
          slices,
          patch_rows,
          unsigned(side / kWide * ceil_div(side, int64_t(patch_rows)))};
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
  unsigned* counter_to_clear = nullptr;  // of a later launch

  void add(const Layer<T, S>& next) {
    first_item[count + 1] = first_item[count] + next.plan.items();
    first_patch[count + 1] = first_patch[count] + next.plan.patches();
    layer[count++] = next;
  }
};

// Row and column of tile t; tiles go row by row.
struct Position {
  unsigned row = 0, column;

  FV_DEVICE explicit Position(unsigned t) : column(t) {
    for (; column > row; ++row) column -= row + 1;
  }
};

// grid: items of all layers
template <class T, class S>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 4)
    multiply_chunks(const __grid_constant__ Layers<T, S> layers) {
  if (layers.counter_to_clear && blockIdx.x == 0 && threadIdx.x == 0) *layers.counter_to_clear = 0;
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= layers.first_item[l + 1]) ++l;
  const Layer<T, S>& layer = layers.layer[l];
  const Plan& plan = layer.plan;
  const Params& p = plan.p;
  const unsigned item = unsigned(blockIdx.x - layers.first_item[l]), row = item / plan.tiles;
  const unsigned image_index = row / plan.chunks, chunk = row - image_index * plan.chunks;
  const Position tile(item - row * plan.tiles);
  const int64_t begin = chunk * plan.chunk, pixels = minimum(p.pixels - begin, plan.chunk);
  const int64_t pixel_step = p.channels_last ? p.channels : 1, channel_step = p.channels_last ? 1 : p.pixels;
  const S* image = layer.features + image_index * p.channels * p.pixels + begin * pixel_step;
  const auto operand = [&](int64_t first) {
    return Operand<S>{image + first * channel_step, pixel_step, channel_step, p.channels - first};
  };
  const Operand<S> a = operand(int64_t(tile.row) * kTile), b = operand(int64_t(tile.column) * kTile);
  T* partial = layer.partial + item * plan.tile_size();
  const int side = int(plan.side);
  FV_DYNAMIC_SHARED(float, shared);
  multiply<T>(a, b, tile.row == tile.column, pixels, shared, [&](int y, int x, const auto& sums) {
    if (y >= side || x >= side) return;
    *reinterpret_cast<std::decay_t<decltype(sums)>*>(partial + y * side + x) = sums;
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
FV_DEVICE Entry<T> add_chunks(const Layer<T, S>& layer, unsigned patch) {
  FV_SHARED(T, partial, [kReducers]);
  const Plan& plan = layer.plan;
  const unsigned t = patch / plan.patches_of_tile, q = patch - t * plan.patches_of_tile;
  const unsigned image = t / plan.tiles, tile_index = t - image * plan.tiles;
  const unsigned count = kReducers / plan.slices, slice = threadIdx.x / count, e = threadIdx.x - slice * count;
  const unsigned across = plan.side / kWide, patch_row = q / across;
  const unsigned row = patch_row * plan.patch_rows + e / kWide, column = (q - patch_row * across) * kWide + e % kWide;
  const Position tile(tile_index);
  Entry<T> entry{false, image, int64_t(tile.row) * kTile + row, int64_t(tile.column) * kTile + column, T(0)};
  entry.any = entry.row < plan.p.channels && entry.column <= entry.row;
  if (entry.any) {
    const int64_t step = plan.tiles * plan.tile_size();  // from chunk to chunk
    const T* source = layer.partial + (int64_t(image) * plan.chunks * plan.tiles + tile_index) * plan.tile_size() +
                      row * plan.side + column;
#pragma unroll 8
    for (unsigned c = slice; c < plan.chunks; c += plan.slices) entry.value += source[c * step];
  }
  partial[threadIdx.x] = entry.value;
  __syncthreads();
  if (slice > 0) entry.any = false;  // the first slice speaks for all
  for (unsigned s = 1; s < plan.slices && entry.any; ++s) entry.value += partial[s * count + e];
  entry.value *= layer.scale;
  return entry;
}

}  // namespace fastvision::gram_matrix
