// roi_align on CUDA. Forward: one block per (roi, chunk of channels), the taps of A_y and A_x in shared memory.
// Backward: one block per (tile of pixels, chunk of channels, image); it finds the rois that touch its tile, in order,
// gathers their gradients and writes each pixel once: no zero fill, no atomics, the same bits in every run.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "roi/check_images.cuh"
#include "roi/roi_align.h"

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

template <class T>
struct ForwardArgs {
  Params p;
  const T* rois;  // [K, 5]
  Strides in, out;
  int64_t chunk;  // channels a block
  bool channels_last;
};

// map [N, C, H, W], out [K, C, P, Q], both of any strides; grid (K, chunks of channels)
template <class T, class S>
__global__ void __launch_bounds__(kBlock) pool(ForwardArgs<T> args, const S* __restrict__ map, S* __restrict__ out) {
  // [2, kStagedTaps] weights, [2, kStagedTaps] pixels, [P] and [Q] counts, at most kStagedTaps of each
  FV_DYNAMIC_SHARED(T, weights);
  const Params& p = args.p;
  int32_t* pixels = reinterpret_cast<int32_t*>(weights + 2 * kStagedTaps);
  int32_t* counts = pixels + 2 * kStagedTaps;
  const int64_t k = blockIdx.x;
  const T* roi = args.rois + 5 * k;
  const SampledAxis<T> rows = rows_of(p, roi), columns = columns_of(p, roi);
  const int64_t image = roi::image_of(p.batch, roi);

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
  for (int64_t e = threadIdx.x; e < lanes * bins; e += kBlock) {
    // neighbouring threads write neighbouring elements in either format
    const int64_t c = c0 + (args.channels_last ? e % lanes : e / bins), bin = args.channels_last ? e / lanes : e % bins;
    const int64_t i = bin / p.pooled_width, j = bin % p.pooled_width;
    T sum = 0;
    if (image >= 0) {
      const S* plane = map + image * args.in.n + c * args.in.c;
      const auto add_row = [&](int64_t row, T row_weight) {
        const S* line = plane + row * args.in.h;
        T row_sum = 0;
        const auto add = [&](int64_t column, T weight) {
          row_sum += weight * static_cast<T>(line[column * args.in.w]);
        };
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

template <class T>
struct BackwardArgs {
  Params p;
  const T* rois;  // [K, 5]
  int64_t count;  // K
  Strides grad, out;
  int64_t column_tiles, tiles;  // of an image
};

// Which pixels and channels a thread sums. channels_first: its own pixel, `kSums` channels; neighbours are columns.
template <bool channels_last>
struct Mapping {
  static constexpr int kChannels = channels_last ? 32 : 8;  // a block
  static constexpr int kSums = channels_last ? kTileRows * kTileColumns * 32 / kBlock : kChannels;

  FV_DEVICE static int pixel(int s) {
    return channels_last ? int(threadIdx.x) / 32 + s * (kBlock / 32) : int(threadIdx.x);
  }
  FV_DEVICE static int channel(int s) { return channels_last ? int(threadIdx.x) % 32 : s; }
};

// Whether a roi can touch pixels [low, low + length) along an axis; false for NaN.
template <class T>
FV_DEVICE bool may_touch(const SampledAxis<T>& axis, int64_t bins, int64_t low, int64_t length) {
  const T end = axis.start + axis.bin * T(bins);
  const T first = minimum(axis.start, end) - 2, last = maximum(axis.start, end) + 2;
  return last >= T(low) && first <= T(low + length);
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

// grad [K, C, P, Q], out [N, C, H, W]; grid (N * tiles, chunks of channels)
template <class T, class S, bool channels_last>
__global__ void __launch_bounds__(kBlock)
    unpool(BackwardArgs<T> args, const S* __restrict__ grad, S* __restrict__ out) {
  using Map = Mapping<channels_last>;
  FV_SHARED(T, row_weights, [kSlab * kTileRows]);        // A_y restricted to a slab of bins and the rows of the tile
  FV_SHARED(T, column_weights, [kSlab * kTileColumns]);  // A_x likewise
  FV_SHARED(int64_t, touching, [kBlock]);
  FV_SHARED(int, warp_counts, [kBlock / 32]);
  const Params& p = args.p;
  const int64_t n = blockIdx.x / args.tiles, tile = blockIdx.x % args.tiles;
  const int64_t y0 = tile / args.column_tiles * kTileRows, x0 = tile % args.column_tiles * kTileColumns;
  const int64_t c0 = int64_t(blockIdx.y) * Map::kChannels;
  const int t = threadIdx.x, warp = t / 32;

  T sums[Map::kSums];
#pragma unroll
  for (int s = 0; s < Map::kSums; ++s) sums[s] = 0;

  for (int64_t base = 0; base < args.count; base += kBlock) {
    // rois [base, base + kBlock) that touch this tile, compacted in order
    bool touches = false;
    if (base + t < args.count) {
      const T* roi = args.rois + 5 * (base + t);
      touches = roi::image_of(p.batch, roi) == n && may_touch(rows_of(p, roi), p.pooled_height, y0, kTileRows) &&
                may_touch(columns_of(p, roi), p.pooled_width, x0, kTileColumns);
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
      const SampledAxis<T> rows = rows_of(p, args.rois + 5 * k), columns = columns_of(p, args.rois + 5 * k);
      for (int64_t i0 = 0; i0 < p.pooled_height; i0 += kSlab) {
        for (int64_t j0 = 0; j0 < p.pooled_width; j0 += kSlab) {
          const int bins_y = int(minimum(p.pooled_height - i0, int64_t(kSlab)));
          const int bins_x = int(minimum(p.pooled_width - j0, int64_t(kSlab)));
          restrict_taps(rows, i0, bins_y, y0, kTileRows, row_weights);
          restrict_taps(columns, j0, bins_x, x0, kTileColumns, column_weights);
          __syncthreads();
#pragma unroll
          for (int s = 0; s < Map::kSums; ++s) {
            const int64_t c = c0 + Map::channel(s);
            const int row = Map::pixel(s) / kTileColumns, column = Map::pixel(s) % kTileColumns;
            if (c >= p.channels) continue;
            const S* bins = grad + k * args.grad.n + c * args.grad.c + i0 * args.grad.h + j0 * args.grad.w;
            T sum = 0;
            for (int i = 0; i < bins_y; ++i) {
              const T row_weight = row_weights[i * kTileRows + row];
              if (row_weight == 0) continue;
              for (int j = 0; j < bins_x; ++j) {
                const T weight = row_weight * column_weights[j * kTileColumns + column];
                if (weight != 0) sum += weight * static_cast<T>(bins[i * args.grad.h + j * args.grad.w]);
              }
            }
            sums[s] += sum;
          }
          __syncthreads();
        }
      }
    }
  }

#pragma unroll
  for (int s = 0; s < Map::kSums; ++s) {
    const int64_t c = c0 + Map::channel(s);
    const int64_t y = y0 + Map::pixel(s) / kTileColumns, x = x0 + Map::pixel(s) % kTileColumns;
    if (c < p.channels && y < p.height && x < p.width) {
      out[n * args.out.n + c * args.out.c + y * args.out.h + x * args.out.w] = static_cast<S>(sums[s]);
    }
  }
}

Tensor forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
               int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  constexpr const char* kOp = "roi_align";
  const Params p =
      forward_params(kOp, input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned);
  const int64_t count = rois.size(0);
  const bool channels_last = is_channels_last(input);
  Tensor output = empty_map(input, count, p.channels, pooled_height, pooled_width, channels_last);
  if (output.numel() == 0) return output;
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(input.scalar_type()));
    roi::check_images<T>(kOp, p.batch, plain);
    const int64_t chunk = channels_last ? 256 : 64;
    const ForwardArgs<T> args{
        p, plain.const_data_ptr<T>(), strides_of(input), strides_of(output), chunk, channels_last};
    const int64_t counts = minimum(pooled_height, int64_t(kStagedTaps)) + minimum(pooled_width, int64_t(kStagedTaps));
    const size_t shared = 2 * kStagedTaps * (sizeof(T) + sizeof(int32_t)) + counts * sizeof(int32_t);
    launch(kOp, &pool<T, S>, {dim3(blocks_for(count, 1), blocks_for(p.channels, chunk)), kBlock, shared}, input, args,
           input.const_data_ptr<S>(), output.mutable_data_ptr<S>());
  });
  return output;
}

Tensor backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch, int64_t height,
                int64_t width, int64_t sampling_ratio, bool aligned, bool channels_last) {
  constexpr const char* kOp = "roi_align_backward";
  const Params p = backward_params(kOp, grad, rois, spatial_scale, batch, height, width, sampling_ratio, aligned);
  Tensor output = empty_map(grad, batch, p.channels, height, width, channels_last);
  if (output.numel() == 0) return output;
  if (rois.size(0) == 0) return torch::stable::zero_(output);
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(grad.scalar_type()));
    roi::check_images<T>(kOp, p.batch, plain);
    const int64_t column_tiles = ceil_div(width, int64_t(kTileColumns));
    const int64_t tiles = column_tiles * ceil_div(height, int64_t(kTileRows));
    const BackwardArgs<T> args{
        p, plain.const_data_ptr<T>(), rois.size(0), strides_of(grad), strides_of(output), column_tiles, tiles};
    const auto run = [&](auto kernel, int channels) {
      const dim3 grid(blocks_for(batch * tiles, 1), blocks_for(p.channels, channels));
      launch(kOp, kernel, {grid, kBlock}, grad, args, grad.const_data_ptr<S>(), output.mutable_data_ptr<S>());
    };
    if (channels_last) {
      run(&unpool<T, S, true>, Mapping<true>::kChannels);
    } else {
      run(&unpool<T, S, false>, Mapping<false>::kChannels);
    }
  });
  return output;
}

}  // namespace
}  // namespace fastvision::roi_align

FV_CUDA_LIBRARY(m) {
  m.impl("roi_align", TORCH_BOX(&fastvision::roi_align::forward));
  m.impl("roi_align_backward", TORCH_BOX(&fastvision::roi_align::backward));
}
