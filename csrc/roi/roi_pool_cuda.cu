// roi_pool on CUDA. Forward: one thread a bin and channel. Backward: by tiles, to which each roi in turn adds
// the bins whose largest pixel is there.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "roi/check_images.cuh"
#include "roi/roi_pool.h"
#include "roi/tiles.cuh"

namespace fastvision::roi_pool {
namespace {

using roi::kBlock;
using roi::kOwnedChannels;
using roi::kOwnedTile;

template <class T>
struct ForwardArgs {
  Params p;
  const T* rois;  // [K, 5]
  int64_t elements;
  Strides in, out;
  bool channels_last;
};

// map [N, C, H, W], out and argmax [K, C, P, Q]
template <class T, class S>
__global__ void __launch_bounds__(kBlock) pool(const __grid_constant__ ForwardArgs<T> args, const S* __restrict__ map,
                                               S* __restrict__ out, int32_t* __restrict__ argmax) {
  const Params& p = args.p;
  const int64_t e = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (e >= args.elements) return;
  // neighbouring threads write neighbouring elements in either format
  const int64_t bins = p.pooled_height * p.pooled_width, k = e / (bins * p.channels), rest = e % (bins * p.channels);
  const int64_t c = args.channels_last ? rest % p.channels : rest / bins;
  const int64_t bin = args.channels_last ? rest / p.channels : rest % bins;
  const int64_t i = bin / p.pooled_width, j = bin % p.pooled_width;
  const T* roi = args.rois + 5 * k;
  const int64_t image = roi::image_of(p.batch, roi);
  const roi::PixelRange rows = rows_of(p, roi)[i], columns = columns_of(p, roi)[j];
  T largest = 0;
  int32_t place = -1;
  if (image >= 0) {
    const S* plane = map + image * args.in.n + c * args.in.c;
    for (int64_t y = rows.low; y < rows.high; ++y) {
      for (int64_t x = columns.low; x < columns.high; ++x) {
        const T value = static_cast<T>(plane[y * args.in.h + x * args.in.w]);
        // as in torch's max pooling NaN is larger than any number
        if (place < 0 || (!(value <= largest) && largest == largest)) {
          largest = value, place = int32_t(y * p.width + x);
        }
      }
    }
  }
  const int64_t at = k * args.out.n + c * args.out.c + i * args.out.h + j * args.out.w;
  out[at] = static_cast<S>(largest), argmax[at] = place;
}

template <class T>
struct BackwardArgs {
  Params p;
  const T* rois;  // [K, 5]
  int64_t count;  // K
  Strides grad, argmax, out;
  int64_t column_tiles, tiles;  // of an image
};

// Bins [first, last) that have pixels in [low, low + kOwnedTile).
template <class T>
struct TouchedBins {
  int64_t first = 0, last = 0;

  FV_DEVICE TouchedBins(const roi::PooledAxis<T>& axis, int64_t low) {
    const roi::PixelRange all = axis.extent();
    if (all.high <= low || all.low >= low + kOwnedTile) return;
    while (first < axis.bins && axis[first].high <= low) ++first;
    last = first;
    while (last < axis.bins && axis[last].low < low + kOwnedTile) ++last;
  }
};

// grad, argmax [K, C, P, Q], out [N, C, H, W]; grid (N * tiles, chunks of channels)
template <class T, class S>
__global__ void __launch_bounds__(kOwnedChannels)
    scatter(const __grid_constant__ BackwardArgs<T> args, const S* __restrict__ grad,
            const int32_t* __restrict__ argmax, S* __restrict__ out) {
  FV_DYNAMIC_SHARED(T, sums);
  const Params& p = args.p;
  const int64_t n = blockIdx.x / args.tiles, t = blockIdx.x % args.tiles;
  roi::OwnedTile<T> tile{sums, t / args.column_tiles * kOwnedTile, t % args.column_tiles * kOwnedTile};
  const int64_t c0 = int64_t(blockIdx.y) * kOwnedChannels, c = c0 + threadIdx.x;
  tile.clear();
  for (int64_t k = 0; k < args.count && c < p.channels; ++k) {
    const T* roi = args.rois + 5 * k;
    if (roi::image_of(p.batch, roi) != n) continue;
    const TouchedBins<T> rows(rows_of(p, roi), tile.y0), columns(columns_of(p, roi), tile.x0);
    for (int64_t i = rows.first; i < rows.last; ++i) {
      for (int64_t j = columns.first; j < columns.last; ++j) {
        const int64_t place = argmax[k * args.argmax.n + c * args.argmax.c + i * args.argmax.h + j * args.argmax.w];
        const int64_t y = place / p.width, x = place % p.width;
        if (place < 0 || !tile.has(y, x)) continue;
        tile.add(y, x, static_cast<T>(grad[k * args.grad.n + c * args.grad.c + i * args.grad.h + j * args.grad.w]));
      }
    }
  }
  tile.store(out + n * args.out.n, args.out, p.height, p.width, c0, p.channels);
}

std::tuple<Tensor, Tensor> forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                                   int64_t pooled_width, bool exact_bins) {
  constexpr const char* kOp = "roi_pool";
  const Params p = forward_params(kOp, input, rois, spatial_scale, pooled_height, pooled_width, exact_bins);
  auto [output, argmax] = empty_outputs(p, input, rois.size(0));
  if (output.numel() == 0) return {output, argmax};
  dispatch_floating(kOp, input.scalar_type(), [&, &output = output, &argmax = argmax](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(input.scalar_type()));
    roi::check_images<T>(kOp, p.batch, plain);
    const ForwardArgs<T> args{
        p, plain.const_data_ptr<T>(), output.numel(), strides_of(input), strides_of(output), is_channels_last(output)};
    launch(kOp, &pool<T, S>, {blocks_for(args.elements, kBlock), kBlock}, input, args, input.const_data_ptr<S>(),
           output.mutable_data_ptr<S>(), argmax.mutable_data_ptr<int32_t>());
  });
  return {output, argmax};
}

Tensor backward(const Tensor& grad, const Tensor& rois, const Tensor& argmax, double spatial_scale, int64_t batch,
                int64_t height, int64_t width, bool exact_bins, bool channels_last) {
  constexpr const char* kOp = "roi_pool_backward";
  const Params p = backward_params(kOp, grad, rois, argmax, spatial_scale, batch, height, width, exact_bins);
  Tensor output = empty_map(grad, batch, p.channels, height, width, channels_last);
  if (output.numel() == 0) return output;
  if (rois.size(0) == 0) return clear_tensor(output);
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(grad.scalar_type()));
    roi::check_images<T>(kOp, p.batch, plain);
    const int64_t column_tiles = ceil_div(width, int64_t(kOwnedTile));
    const int64_t tiles = column_tiles * ceil_div(height, int64_t(kOwnedTile));
    const BackwardArgs<T> args{p,
                               plain.const_data_ptr<T>(),
                               rois.size(0),
                               strides_of(grad),
                               strides_of(argmax),
                               strides_of(output),
                               column_tiles,
                               tiles};
    const dim3 grid(blocks_for(batch * tiles, 1), blocks_for(p.channels, kOwnedChannels));
    launch(kOp, &scatter<T, S>, {grid, kOwnedChannels, roi::OwnedTile<T>::kBytes}, grad, args, grad.const_data_ptr<S>(),
           argmax.const_data_ptr<int32_t>(), output.mutable_data_ptr<S>());
  });
  return output;
}

}  // namespace
}  // namespace fastvision::roi_pool

FV_CUDA_LIBRARY(m) {
  m.impl("roi_pool", TORCH_BOX(&fastvision::roi_pool::forward));
  m.impl("roi_pool_backward", TORCH_BOX(&fastvision::roi_pool::backward));
}
