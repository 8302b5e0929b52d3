// Position-sensitive pooling on CUDA. Forward: one thread a bin and output channel. Backward: by tiles.
#pragma once

#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "roi/check_images.cuh"
#include "roi/position_sensitive.h"
#include "roi/tiles.cuh"

namespace fastvision::position_sensitive {

using roi::kBlock;
using roi::kSlab;
using roi::kTileColumns;
using roi::kTileRows;

template <class T>
struct Args {
  Params p;
  const T* rois;  // [K, 5]
  int64_t count;  // K
  Strides map, pooled;
  bool channels_last;
};

// map [N, C P Q, H, W], out [K, C, P, Q]
template <class Sampler, class T, class S>
__global__ void __launch_bounds__(kBlock)
    pool_bins(const __grid_constant__ Args<T> args, const S* __restrict__ map, S* __restrict__ out) {
  const Params& p = args.p;
  const int64_t e = int64_t(blockIdx.x) * kBlock + threadIdx.x, bins = p.bins();
  if (e >= args.count * p.outputs * bins) return;
  // neighbouring threads write neighbouring elements in either format
  const int64_t k = e / (bins * p.outputs), rest = e % (bins * p.outputs);
  const int64_t c = args.channels_last ? rest % p.outputs : rest / bins;
  const int64_t bin = args.channels_last ? rest / p.outputs : rest % bins;
  const int64_t i = bin / p.pooled_width, j = bin % p.pooled_width;
  const T* roi = args.rois + 5 * k;
  const int64_t image = roi::image_of(p.batch, roi);
  T sum = 0;
  if (image >= 0) {
    const S* plane = map + image * args.map.n + (c * bins + bin) * args.map.c;
    const auto rows = Sampler::template rows<T>(p, roi), columns = Sampler::template columns<T>(p, roi);
    for_each_tap(rows, i, [&](int64_t y, T row_weight) {
      for_each_tap(columns, j, [&](int64_t x, T weight) {
        sum += row_weight * weight * static_cast<T>(plane[y * args.map.h + x * args.map.w]);
      });
    });
  }
  out[k * args.pooled.n + c * args.pooled.c + i * args.pooled.h + j * args.pooled.w] = static_cast<S>(sum);
}

// grad [K, C, P, Q], map [N, C P Q, H, W]; grid (N * tiles, chunks of channels of the map)
template <class Sampler, class T, class S, bool channels_last>
__global__ void __launch_bounds__(kBlock)
    unpool_tiles(const __grid_constant__ Args<T> args, const S* __restrict__ grad, S* __restrict__ map) {
  using Map = roi::Mapping<channels_last>;
  FV_SHARED(T, row_weights, [kSlab * kTileRows]);        // of a slab of bins at the rows of the tile
  FV_SHARED(T, column_weights, [kSlab * kTileColumns]);  // and its columns
  const Params& p = args.p;
  const int64_t column_tiles = ceil_div(p.width, int64_t(kTileColumns));
  const int64_t tiles = column_tiles * ceil_div(p.height, int64_t(kTileRows));
  const int64_t n = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t y0 = tile / column_tiles * kTileRows, x0 = tile % column_tiles * kTileColumns;
  const int64_t c0 = int64_t(blockIdx.y) * Map::kChunk, bins = p.bins();
  T sums[Map::kRows][Map::kColumns][Map::kChannels] = {};

  const auto touches = [&](int64_t k) {
    const T* roi = args.rois + 5 * k;
    return roi::image_of(p.batch, roi) == n &&
           roi::may_touch(Sampler::template rows<T>(p, roi), p.pooled_height, y0, kTileRows) &&
           roi::may_touch(Sampler::template columns<T>(p, roi), p.pooled_width, x0, kTileColumns);
  };
  roi::for_each_touching(args.count, touches, [&](int64_t k) {
    const T* roi = args.rois + 5 * k;
    const auto rows = Sampler::template rows<T>(p, roi), columns = Sampler::template columns<T>(p, roi);
    for (int64_t i0 = 0; i0 < p.pooled_height; i0 += kSlab) {
      for (int64_t j0 = 0; j0 < p.pooled_width; j0 += kSlab) {
        const int bins_y = int(minimum(p.pooled_height - i0, int64_t(kSlab)));
        const int bins_x = int(minimum(p.pooled_width - j0, int64_t(kSlab)));
        roi::restrict_taps(rows, i0, bins_y, y0, kTileRows, row_weights);
        roi::restrict_taps(columns, j0, bins_x, x0, kTileColumns, column_weights);
        __syncthreads();
#pragma unroll
        for (int s = 0; s < Map::kChannels; ++s) {
          const int64_t c = c0 + Map::channel(s);
          const int64_t i = c / p.pooled_width % p.pooled_height - i0, j = c % p.pooled_width - j0;
          if (c >= p.outputs * bins || i < 0 || i >= bins_y || j < 0 || j >= bins_x) continue;
          const T g = static_cast<T>(
              grad[k * args.pooled.n + c / bins * args.pooled.c + (i0 + i) * args.pooled.h + (j0 + j) * args.pooled.w]);
#pragma unroll
          for (int r = 0; r < Map::kRows; ++r) {
#pragma unroll
            for (int x = 0; x < Map::kColumns; ++x) {
              sums[r][x][s] +=
                  row_weights[i * kTileRows + Map::row(r)] * column_weights[j * kTileColumns + Map::column(x)] * g;
            }
          }
        }
        __syncthreads();
      }
    }
  });
  roi::store_tile<Map>(sums, map + n * args.map.n, args.map, y0, p.height, x0, p.width, c0, p.outputs * bins);
}

struct Cuda {
  template <class Sampler>
  static void pool(const char* op, const Params& p, const Tensor& input, const Tensor& rois, Tensor& output) {
    if (output.numel() == 0) return;
    dispatch_floating(op, input.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      roi::check_images<T>(op, p.batch, rois);
      const Args<T> args{
          p, rois.const_data_ptr<T>(), rois.size(0), strides_of(input), strides_of(output), is_channels_last(output)};
      launch(op, &pool_bins<Sampler, T, S>, {blocks_for(output.numel(), kBlock), kBlock}, input, args,
             input.const_data_ptr<S>(), output.mutable_data_ptr<S>());
    });
  }

  template <class Sampler>
  static void unpool(const char* op, const Params& p, const Tensor& grad, const Tensor& rois, Tensor& map) {
    if (map.numel() == 0) return;
    if (rois.size(0) == 0) {
      clear_tensor(map);
      return;
    }
    dispatch_floating(op, grad.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      roi::check_images<T>(op, p.batch, rois);
      const bool channels_last = is_channels_last(map);
      const Args<T> args{p, rois.const_data_ptr<T>(), rois.size(0), strides_of(map), strides_of(grad), channels_last};
      const int64_t tiles = ceil_div(p.width, int64_t(kTileColumns)) * ceil_div(p.height, int64_t(kTileRows));
      const auto run = [&](auto kernel, int chunk) {
        const dim3 grid(blocks_for(p.batch * tiles, 1), blocks_for(p.outputs * p.bins(), chunk));
        launch(op, kernel, {grid, kBlock}, grad, args, grad.const_data_ptr<S>(), map.mutable_data_ptr<S>());
      };
      if (channels_last) {
        run(&unpool_tiles<Sampler, T, S, true>, roi::Mapping<true>::kChunk);
      } else {
        run(&unpool_tiles<Sampler, T, S, false>, roi::Mapping<false>::kChunk);
      }
    });
  }
};

}  // namespace fastvision::position_sensitive
