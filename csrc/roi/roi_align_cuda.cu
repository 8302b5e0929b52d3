// roi_align on CUDA. Forward: one block per (roi, chunk of channels), the taps of A_y and A_x in shared memory.
// Backward: one block per (tile of pixels, chunk of channels, image); it finds the rois that touch its tile, in order,
// gathers their gradients and writes each pixel once: no zero fill, no atomics, the same bits in every run.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "roi/check_images.cuh"
#include "roi/roi_align.cuh"

namespace fastvision::roi_align {
namespace {

constexpr int kBlock = 256;
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

constexpr int kTileRows = 8, kTileColumns = 32;  // kTileRows * kTileColumns == kBlock
constexpr int kSlab = 32;                        // bins along an axis whose weights are in shared memory at a time

template <class T, class S>
struct BackwardArgs {
  Params p;
  Maps<S> maps;
  const T* rois;  // [K, 5]
  int64_t count;  // K
  Strides grad;
  int64_t first_tile[kMostLevels + 1];  // of each level; tiles of a level are ordered by image, row and column
};

// Which pixels of a tile and channels of a chunk a thread sums: kRows x kColumns pixels, each for kChannels channels.
// The block is 8 groups of 32 threads. channels_last: the threads of a group are channels and share its columns;
// otherwise they are columns, one row a group, and each sums all channels.
template <bool channels_last>
struct Mapping {
  static constexpr int kGroups = kBlock / 32;
  static constexpr int kRows = channels_last ? kTileRows : 1, kColumns = channels_last ? kTileColumns / kGroups : 1;
  static constexpr int kChannels = channels_last ? 1 : 8;
  static constexpr int kChunk = channels_last ? 32 : kChannels;  // channels a block

  FV_DEVICE static int row(int r) { return channels_last ? r : int(threadIdx.x) / 32; }
  FV_DEVICE static int column(int c) {
    return channels_last ? int(threadIdx.x) / 32 + c * kGroups : int(threadIdx.x) % 32;
  }
  FV_DEVICE static int channel(int s) { return channels_last ? int(threadIdx.x) % 32 : s; }
};

// Whether a roi can touch pixels [low, low + length) along an axis; false for NaN.
template <class T>
FV_DEVICE bool may_touch(const SampledAxis<T>& axis, int64_t bins, int64_t low, int64_t length) {
  const T end = axis.start + axis.bin * T(bins);
  // samples are within rounding of [start, end], and a border's value reaches a pixel further
  const T slack = 2 + 8 * kEpsilon<T> * maximum(std::fabs(axis.start), std::fabs(end));
  return maximum(axis.start, end) + slack >= T(low) && minimum(axis.start, end) - slack <= T(low + length);
}

// weights [bins, length]: bins [first, first + bins) of an axis at pixels [low, low + length). One thread a bin.
template <class T>
FV_DEVICE void restrict_taps(const SampledAxis<T>& axis, int64_t first, int bins, int64_t low, int length, T* weights) {
  for (int b = threadIdx.x; b < bins; b += kBlock) {
    for (int e = 0; e < length; ++e) weights[b * length + e] = 0;
    for_each_tap(axis, first + b, [&](int64_t pixel, T weight) {
      if (pixel >= low && pixel < low + length) weights[b * length + pixel - low] += weight;
    });
  }
}

// grad [K, C, P, Q], maps [N, C, H, W]; grid (tiles of all images and levels, chunks of channels)
template <class T, class S, bool channels_last>
__global__ void __launch_bounds__(kBlock)
    unpool(const __grid_constant__ BackwardArgs<T, S> args, const S* __restrict__ grad) {
  using Map = Mapping<channels_last>;
  FV_SHARED(T, row_weights, [kSlab * kTileRows]);        // A_y restricted to a slab of bins and the rows of the tile
  FV_SHARED(T, column_weights, [kSlab * kTileColumns]);  // A_x likewise
  FV_SHARED(int64_t, touching, [kBlock]);
  FV_SHARED(int, warp_counts, [kBlock / 32]);
  const Params& p = args.p;
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= args.first_tile[l + 1]) ++l;
  const Level& level = p.level[l];
  const int64_t column_tiles = ceil_div(level.width, int64_t(kTileColumns));
  const int64_t tiles = column_tiles * ceil_div(level.height, int64_t(kTileRows));
  const int64_t n = (blockIdx.x - args.first_tile[l]) / tiles, tile = (blockIdx.x - args.first_tile[l]) % tiles;
  const int64_t y0 = tile / column_tiles * kTileRows, x0 = tile % column_tiles * kTileColumns;
  const int64_t c0 = int64_t(blockIdx.y) * Map::kChunk;
  const int t = threadIdx.x, warp = t / 32;

  T sums[Map::kRows][Map::kColumns][Map::kChannels] = {};

  for (int64_t base = 0; base < args.count; base += kBlock) {
    // rois [base, base + kBlock) that touch this tile, compacted in order
    bool touches = false;
    if (base + t < args.count) {
      const T* roi = args.rois + 5 * (base + t);
      touches = roi::image_of(p.batch, roi) == n && level_of(p, roi) == l &&
                may_touch(rows_of(p, level, roi), p.pooled_height, y0, kTileRows) &&
                may_touch(columns_of(p, level, roi), p.pooled_width, x0, kTileColumns);
    }
    const unsigned votes = __ballot_sync(0xffffffffu, touches);
    if (t % 32 == 0) warp_counts[warp] = __popc(votes);
    __syncthreads();
    int position = __popc(votes & ((1u << (t % 32)) - 1)), found = 0;
    for (int w = 0; w < kBlock / 32; ++w) {
      if (w < warp) position += warp_counts[w];
      found += warp_counts[w];
    }
    if (touches) touching[position] = base + t;
    __syncthreads();

    for (int f = 0; f < found; ++f) {
      const int64_t k = touching[f];
      const T* roi = args.rois + 5 * k;
      const SampledAxis<T> rows = rows_of(p, level, roi), columns = columns_of(p, level, roi);
      for (int64_t i0 = 0; i0 < p.pooled_height; i0 += kSlab) {
        for (int64_t j0 = 0; j0 < p.pooled_width; j0 += kSlab) {
          const int bins_y = int(minimum(p.pooled_height - i0, int64_t(kSlab)));
          const int bins_x = int(minimum(p.pooled_width - j0, int64_t(kSlab)));
          restrict_taps(rows, i0, bins_y, y0, kTileRows, row_weights);
          restrict_taps(columns, j0, bins_x, x0, kTileColumns, column_weights);
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
              for (int c = 0; c < Map::kColumns; ++c) {
                total += weights_x[c] = column_weights[j * kTileColumns + Map::column(c)];
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
    }
  }

  const Strides out = args.maps.step[l];
  S* map = args.maps.data[l] + n * out.n;
#pragma unroll
  for (int r = 0; r < Map::kRows; ++r) {
#pragma unroll
    for (int x = 0; x < Map::kColumns; ++x) {
      const int64_t row = y0 + Map::row(r), column = x0 + Map::column(x);
      if (row >= level.height || column >= level.width) continue;
#pragma unroll
      for (int s = 0; s < Map::kChannels; ++s) {
        const int64_t c = c0 + Map::channel(s);
        if (c < p.channels) map[c * out.c + row * out.h + column * out.w] = static_cast<S>(sums[r][x][s]);
      }
    }
  }
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
    for (Tensor& map : maps) torch::stable::zero_(map);
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
      run(&roi_align::unpool<T, S, true>, Mapping<true>::kChunk);
    } else {
      run(&roi_align::unpool<T, S, false>, Mapping<false>::kChunk);
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
