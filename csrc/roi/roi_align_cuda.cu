// roi_align on CUDA. Forward: one block per (roi, chunk of channels), the taps of A_y and A_x in shared memory.
// Backward: by tiles.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "roi/check_images.cuh"
#include "roi/roi_align.cuh"
#include "roi/tiles.cuh"

namespace fastvision::roi_align {
namespace {

using roi::kBlock;
using roi::kSlab;
using roi::kTileColumns;
using roi::kTileRows;
using roi::may_touch;

constexpr int kStagedTaps = 1024;  // an axis; rois that need more (about 1000 feature pixels) compute taps as they go

// Taps of one axis in shared memory: bin b owns [b * capacity, b * capacity + counts[b]).
template <class T>
struct StagedAxis {
  int32_t* pixels;
  T* weights;
  int32_t* counts;
  int64_t capacity;

  FV_DEVICE void build(const SampledAxis<T>& axis, int64_t bin) {
    int64_t next = bin * capacity;
    for_each_tap(axis, bin, [&](int64_t pixel, T weight) {
      pixels[next] = int32_t(pixel), weights[next] = weight;
      ++next;
    });
    counts[bin] = int32_t(next - bin * capacity);
  }

  template <class Emit>
  FV_DEVICE void for_each(int64_t bin, Emit emit) const {
    for (int64_t t = bin * capacity; t < bin * capacity + counts[bin]; ++t) emit(int64_t(pixels[t]), weights[t]);
  }
};

template <class T, class S>
struct ForwardArgs {
  Params p;
  Maps<const S> maps;
  const T* rois;  // [K, 5]
  Strides out;
  int64_t chunk;  // channels a block
  bool channels_last;
};

// maps [N, C, H, W], out [K, C, P, Q], all of any strides; grid (K, chunks of channels)
template <class T, class S>
__global__ void __launch_bounds__(kBlock) pool(const __grid_constant__ ForwardArgs<T, S> args, S* __restrict__ out) {
  // [2, kStagedTaps] weights, [2, kStagedTaps] pixels, [P] and [Q] counts, at most kStagedTaps of each
  FV_DYNAMIC_SHARED(T, weights);
  const Params& p = args.p;
  int32_t* pixels = reinterpret_cast<int32_t*>(weights + 2 * kStagedTaps);
  int32_t* counts = pixels + 2 * kStagedTaps;
  const int64_t k = blockIdx.x;
  const T* roi = args.rois + 5 * k;
  const int64_t image = roi::image_of(p.batch, roi), l = level_of(p, roi);
  const Level& level = p.level[maximum(l, int64_t(0))];
  const SampledAxis<T> rows = rows_of(p, level, roi), columns = columns_of(p, level, roi);

  StagedAxis<T> y{pixels, weights, counts, most_taps(rows)};
  StagedAxis<T> x{pixels + kStagedTaps, weights + kStagedTaps, counts + p.pooled_height, most_taps(columns)};
  const bool staged = maximum(y.capacity, int64_t(1)) * p.pooled_height <= kStagedTaps &&
                      maximum(x.capacity, int64_t(1)) * p.pooled_width <= kStagedTaps;
  if (staged) {
    for (int64_t b = threadIdx.x; b < p.pooled_height + p.pooled_width; b += kBlock) {
      if (b < p.pooled_height) {
        y.build(rows, b);
      } else {
        x.build(columns, b - p.pooled_height);
      }
    }
    __syncthreads();
  }

  const int64_t c0 = int64_t(blockIdx.y) * args.chunk, lanes = minimum(args.chunk, p.channels - c0);
  const int64_t bins = p.pooled_height * p.pooled_width;
  const bool exists = image >= 0 && l >= 0;
  const Strides in = exists ? args.maps.step[l] : Strides{};
  const S* map = exists ? args.maps.data[l] + image * in.n : nullptr;
  for (int64_t e = threadIdx.x; e < lanes * bins; e += kBlock) {
    // neighbouring threads write neighbouring elements in either format
    const int64_t c = c0 + (args.channels_last ? e % lanes : e / bins), bin = args.channels_last ? e / lanes : e % bins;
    const int64_t i = bin / p.pooled_width, j = bin % p.pooled_width;
    T sum = 0;
    if (exists) {
      const S* plane = map + c * in.c;
      const auto add_row = [&](int64_t row, T row_weight) {
        const S* line = plane + row * in.h;
        T row_sum = 0;
        const auto add = [&](int64_t column, T weight) { row_sum += weight * static_cast<T>(line[column * in.w]); };
        if (staged) {
          x.for_each(j, add);
        } else {
          for_each_tap(columns, j, add);
        }
        sum += row_weight * row_sum;
      };
      if (staged) {
        y.for_each(i, add_row);
      } else {
        for_each_tap(rows, i, add_row);
      }
    }
    out[k * args.out.n + c * args.out.c + i * args.out.h + j * args.out.w] = static_cast<S>(sum);
  }
}

template <class T, class S>
struct BackwardArgs {
  Params p;
  Maps<S> maps;
  const T* rois;  // [K, 5]
  int64_t count;  // K
  Strides grad;
  int64_t first_tile[kMostLevels + 1];  // of each level; tiles of a level are ordered by image, row and column
};

// grad [K, C, P, Q], maps [N, C, H, W]; grid (tiles of all images and levels, chunks of channels)
template <class T, class S, bool channels_last>
__global__ void __launch_bounds__(kBlock)
    unpool(const __grid_constant__ BackwardArgs<T, S> args, const S* __restrict__ grad) {
  using Map = roi::Mapping<channels_last>;
  FV_SHARED(T, row_weights, [kSlab * kTileRows]);        // A_y restricted to a slab of bins and the rows of the tile
  FV_SHARED(T, column_weights, [kSlab * kTileColumns]);  // A_x likewise
  const Params& p = args.p;
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= args.first_tile[l + 1]) ++l;
  const Level& level = p.level[l];
  const int64_t column_tiles = ceil_div(level.width, int64_t(kTileColumns));
  const int64_t tiles = column_tiles * ceil_div(level.height, int64_t(kTileRows));
  const int64_t n = (blockIdx.x - args.first_tile[l]) / tiles, tile = (blockIdx.x - args.first_tile[l]) % tiles;
  const int64_t y0 = tile / column_tiles * kTileRows, x0 = tile % column_tiles * kTileColumns;
  const int64_t c0 = int64_t(blockIdx.y) * Map::kChunk;

  T sums[Map::kRows][Map::kColumns][Map::kChannels] = {};

  const auto touches = [&](int64_t k) {
    const T* roi = args.rois + 5 * k;
    return roi::image_of(p.batch, roi) == n && level_of(p, roi) == l &&
           may_touch(rows_of(p, level, roi), p.pooled_height, y0, kTileRows) &&
           may_touch(columns_of(p, level, roi), p.pooled_width, x0, kTileColumns);
  };
  roi::for_each_touching(args.count, touches, [&](int64_t k) {
    const T* roi = args.rois + 5 * k;
    const SampledAxis<T> rows = rows_of(p, level, roi), columns = columns_of(p, level, roi);
    for (int64_t i0 = 0; i0 < p.pooled_height; i0 += kSlab) {
      for (int64_t j0 = 0; j0 < p.pooled_width; j0 += kSlab) {
        const int bins_y = int(minimum(p.pooled_height - i0, int64_t(kSlab)));
        const int bins_x = int(minimum(p.pooled_width - j0, int64_t(kSlab)));
        roi::restrict_taps(rows, i0, bins_y, y0, kTileRows, row_weights);
        roi::restrict_taps(columns, j0, bins_x, x0, kTileColumns, column_weights);
        __syncthreads();
        const S* bins = grad + k * args.grad.n + i0 * args.grad.h + j0 * args.grad.w;
        for (int i = 0; i < bins_y; ++i) {
          T weights_y[Map::kRows], total = 0;
#pragma unroll
          for (int r = 0; r < Map::kRows; ++r) total += weights_y[r] = row_weights[i * kTileRows + Map::row(r)];
          if (total == 0) continue;  // weights are not negative
          for (int j = 0; j < bins_x; ++j) {
            T weights_x[Map::kColumns];
            total = 0;
#pragma unroll
            for (int x = 0; x < Map::kColumns; ++x) {
              total += weights_x[x] = column_weights[j * kTileColumns + Map::column(x)];
            }
            if (total == 0) continue;
#pragma unroll
            for (int s = 0; s < Map::kChannels; ++s) {
              const int64_t c = c0 + Map::channel(s);
              if (c >= p.channels) continue;
              const T g = static_cast<T>(bins[c * args.grad.c + i * args.grad.h + j * args.grad.w]);
#pragma unroll
              for (int r = 0; r < Map::kRows; ++r) {
#pragma unroll
                for (int x = 0; x < Map::kColumns; ++x) sums[r][x][s] += weights_y[r] * weights_x[x] * g;
              }
            }
          }
        }
        __syncthreads();
      }
    }
  });
  const Strides& step = args.maps.step[l];
  roi::store_tile<Map>(sums, args.maps.data[l] + n * step.n, step, y0, level.height, x0, level.width, c0, p.channels);
}

}  // namespace

void Cuda::pool(const char* op, const Params& p, const Tensors& maps, const Tensor& rois, Tensor& output) {
  if (output.numel() == 0) return;
  dispatch_floating(op, output.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    roi::check_images<T>(op, p.batch, rois);
    const bool channels_last = is_channels_last(output);
    const int64_t chunk = channels_last ? 256 : 64;
    const ForwardArgs<T, S> args{p,     maps_of<const S>(maps), rois.const_data_ptr<T>(), strides_of(output),
                                 chunk, channels_last};
    const int64_t most = kStagedTaps;
    const int64_t counts = minimum(p.pooled_height, most) + minimum(p.pooled_width, most);
    const size_t shared = 2 * kStagedTaps * (sizeof(T) + sizeof(int32_t)) + counts * sizeof(int32_t);
    const dim3 grid(blocks_for(rois.size(0), 1), blocks_for(p.channels, chunk));
    launch(op, &roi_align::pool<T, S>, {grid, kBlock, shared}, output, args, output.mutable_data_ptr<S>());
  });
}

void Cuda::unpool(const char* op, const Params& p, const Tensor& grad, const Tensor& rois, Tensors& maps) {
  if (rois.size(0) == 0) {
    for (Tensor& map : maps) clear_tensor(map);
    return;
  }
  dispatch_floating(op, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    roi::check_images<T>(op, p.batch, rois);
    BackwardArgs<T, S> args{p, maps_of<S>(maps), rois.const_data_ptr<T>(), rois.size(0), strides_of(grad), {}};
    bool channels_last = false;
    for (int64_t l = 0; l < p.levels; ++l) {
      const int64_t tiles =
          ceil_div(p.level[l].width, int64_t(kTileColumns)) * ceil_div(p.level[l].height, int64_t(kTileRows));
      args.first_tile[l + 1] = args.first_tile[l] + p.batch * tiles;
      channels_last = channels_last || is_channels_last(maps[l]);
    }
    const auto run = [&](auto kernel, int channels) {
      const dim3 grid(blocks_for(args.first_tile[p.levels], 1), blocks_for(p.channels, channels));
      launch(op, kernel, {grid, kBlock}, grad, args, grad.const_data_ptr<S>());
    };
    if (channels_last) {
      run(&roi_align::unpool<T, S, true>, roi::Mapping<true>::kChunk);
    } else {
      run(&roi_align::unpool<T, S, false>, roi::Mapping<false>::kChunk);
    }
  });
}

}  // namespace fastvision::roi_align

FV_CUDA_LIBRARY(m) {
  using fastvision::roi_align::Cuda;
  m.impl("roi_align", TORCH_BOX(&fastvision::roi_align::roi_align<Cuda>));
  m.impl("roi_align_backward", TORCH_BOX(&fastvision::roi_align::roi_align_backward<Cuda>));
  m.impl("roi_align_box_gradients", TORCH_BOX(&fastvision::roi_align::roi_align_box_gradients<Cuda>));
}
