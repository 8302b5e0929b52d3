// roi_align_rotated on CUDA. Forward: one thread a bin and channel. Backward: by tiles, to which each roi in turn adds
// its samples.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "roi/check_images.cuh"
#include "roi/roi_align_rotated.h"
#include "roi/tiles.cuh"

namespace fastvision::roi_align_rotated {
namespace {

using roi::kBlock;
using roi::kOwnedChannels;
using roi::kOwnedTile;

template <class T>
struct Args {
  Params p;
  const T* rois;  // [K, 6]
  int64_t count;  // K
  Strides map, pooled;
  bool channels_last;
};

// map [N, C, H, W], out [K, C, P, Q]
template <class T, class S>
__global__ void __launch_bounds__(kBlock)
    pool(const __grid_constant__ Args<T> args, const S* __restrict__ map, S* __restrict__ out) {
  const Params& p = args.p;
  const int64_t e = int64_t(blockIdx.x) * kBlock + threadIdx.x, bins = p.pooled_height * p.pooled_width;
  if (e >= args.count * p.channels * bins) return;
  // neighbouring threads write neighbouring elements in either format
  const int64_t k = e / (bins * p.channels), rest = e % (bins * p.channels);
  const int64_t c = args.channels_last ? rest % p.channels : rest / bins;
  const int64_t bin = args.channels_last ? rest / p.channels : rest % bins;
  const int64_t i = bin / p.pooled_width, j = bin % p.pooled_width;
  const T* roi = args.rois + 6 * k;
  const int64_t image = roi::image_of(p.batch, roi);
  T sum = 0;
  if (image >= 0) {
    const S* plane = map + image * args.map.n + c * args.map.c;
    for_each_tap(region_of(p, roi), i, j, [&](int64_t y, int64_t x, T weight) {
      sum += weight * static_cast<T>(plane[y * args.map.h + x * args.map.w]);
    });
  }
  out[k * args.pooled.n + c * args.pooled.c + i * args.pooled.h + j * args.pooled.w] = static_cast<S>(sum);
}

// Whether a part of a region, bins [i, i + rows) x [j, j + columns), can touch a tile; false for NaN.
template <class T>
FV_DEVICE bool may_touch(const Region<T>& r, int64_t i, int64_t rows, int64_t j, int64_t columns, int64_t y0,
                         int64_t x0) {
  const T v = r.top + (T(i) + T(rows) / 2) * r.bin_height, u = r.left + (T(j) + T(columns) / 2) * r.bin_width;
  const T half_v = std::fabs(T(rows) * r.bin_height) / 2, half_u = std::fabs(T(columns) * r.bin_width) / 2;
  const T y = v * r.cosine - u * r.sine + r.centre_y, x = v * r.sine + u * r.cosine + r.centre_x;
  // samples are within rounding of the rectangle, and a border's value reaches a pixel further
  const T slack =
      2 + 16 * kEpsilon<T> *
              (std::fabs(r.centre_y) + std::fabs(r.centre_x) + std::fabs(r.top) + std::fabs(r.left) + half_v + half_u);
  const T reach_y = half_v * std::fabs(r.cosine) + half_u * std::fabs(r.sine) + slack;
  const T reach_x = half_v * std::fabs(r.sine) + half_u * std::fabs(r.cosine) + slack;
  return y + reach_y >= T(y0) && y - reach_y <= T(y0 + kOwnedTile) && x + reach_x >= T(x0) &&
         x - reach_x <= T(x0 + kOwnedTile);
}

// grad [K, C, P, Q], map [N, C, H, W]; grid (N * tiles, chunks of channels)
template <class T, class S>
__global__ void __launch_bounds__(kOwnedChannels)
    unpool(const __grid_constant__ Args<T> args, const S* __restrict__ grad, S* __restrict__ map) {
  FV_DYNAMIC_SHARED(T, sums);
  const Params& p = args.p;
  const int64_t column_tiles = ceil_div(p.width, int64_t(kOwnedTile));
  const int64_t tiles = column_tiles * ceil_div(p.height, int64_t(kOwnedTile));
  const int64_t n = blockIdx.x / tiles, t = blockIdx.x % tiles;
  roi::OwnedTile<T> tile{sums, t / column_tiles * kOwnedTile, t % column_tiles * kOwnedTile};
  const int64_t c0 = int64_t(blockIdx.y) * kOwnedChannels, c = c0 + threadIdx.x;
  tile.clear();
  for (int64_t k = 0; k < args.count && c < p.channels; ++k) {
    const T* roi = args.rois + 6 * k;
    if (roi::image_of(p.batch, roi) != n) continue;
    const Region<T> region = region_of(p, roi);
    if (!may_touch(region, 0, p.pooled_height, 0, p.pooled_width, tile.y0, tile.x0)) continue;
    for (int64_t i = 0; i < p.pooled_height; ++i) {
      if (!may_touch(region, i, 1, 0, p.pooled_width, tile.y0, tile.x0)) continue;
      for (int64_t j = 0; j < p.pooled_width; ++j) {
        if (!may_touch(region, i, 1, j, 1, tile.y0, tile.x0)) continue;
        const T g = static_cast<T>(grad[k * args.pooled.n + c * args.pooled.c + i * args.pooled.h + j * args.pooled.w]);
        for_each_tap(region, i, j, [&](int64_t y, int64_t x, T weight) { tile.add(y, x, weight * g); });
      }
    }
  }
  tile.store(map + n * args.map.n, args.map, p.height, p.width, c0, p.channels);
}

Tensor forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
               int64_t pooled_width, int64_t sampling_ratio, bool aligned, bool clockwise) {
  constexpr const char* kOp = "roi_align_rotated";
  const Params p =
      forward_params(kOp, input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise);
  Tensor output = empty_map(input, rois.size(0), p.channels, pooled_height, pooled_width, is_channels_last(input));
  if (output.numel() == 0) return output;
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(input.scalar_type()));
    roi::check_images<T>(kOp, p.batch, plain);
    const Args<T> args{
        p, plain.const_data_ptr<T>(), rois.size(0), strides_of(input), strides_of(output), is_channels_last(output)};
    launch(kOp, &pool<T, S>, {blocks_for(output.numel(), kBlock), kBlock}, input, args, input.const_data_ptr<S>(),
           output.mutable_data_ptr<S>());
  });
  return output;
}

Tensor backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch, int64_t height,
                int64_t width, int64_t sampling_ratio, bool aligned, bool clockwise, bool channels_last) {
  constexpr const char* kOp = "roi_align_rotated_backward";
  const Params p =
      backward_params(kOp, grad, rois, spatial_scale, batch, height, width, sampling_ratio, aligned, clockwise);
  Tensor output = empty_map(grad, batch, p.channels, height, width, channels_last);
  if (output.numel() == 0) return output;
  if (rois.size(0) == 0) return clear_tensor(output);
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(grad.scalar_type()));
    roi::check_images<T>(kOp, p.batch, plain);
    const Args<T> args{p, plain.const_data_ptr<T>(), rois.size(0), strides_of(output), strides_of(grad), channels_last};
    const int64_t tiles = ceil_div(width, int64_t(kOwnedTile)) * ceil_div(height, int64_t(kOwnedTile));
    const dim3 grid(blocks_for(batch * tiles, 1), blocks_for(p.channels, kOwnedChannels));
    launch(kOp, &unpool<T, S>, {grid, kOwnedChannels, roi::OwnedTile<T>::kBytes}, grad, args, grad.const_data_ptr<S>(),
           output.mutable_data_ptr<S>());
  });
  return output;
}

}  // namespace
}  // namespace fastvision::roi_align_rotated

FV_CUDA_LIBRARY(m) {
  m.impl("roi_align_rotated", TORCH_BOX(&fastvision::roi_align_rotated::forward));
  m.impl("roi_align_rotated_backward", TORCH_BOX(&fastvision::roi_align_rotated::backward));
}
