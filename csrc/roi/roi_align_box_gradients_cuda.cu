// Gradients of roi_align with respect to the rois, on CUDA: one block a roi, which adds the slopes of all samples of
// all channels, each thread its own bins, and the threads in a fixed order.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "roi/check_images.cuh"
#include "roi/roi_align.cuh"
#include "roi/tiles.cuh"

namespace fastvision::roi_align {
namespace {

using roi::kBlock;

template <class T, class S>
struct BoxGradientArgs {
  Params p;
  Maps<const S> maps;
  const T* rois;  // [K, 5]
  Strides grad;
  bool channels_last;
};

// The slopes of one bin by the edges of its roi: (x1, y1, x2, y2).
template <class T, class S>
FV_DEVICE void add_slopes(const Params& p, const Level& level, const T* roi, const S* plane, const Strides& step,
                          int64_t i, int64_t j, T grad, T* sums) {
  const SampledAxis<T> rows = rows_of(p, level, roi), columns = columns_of(p, level, roi);
  const AxisMotion<T> row_moves = row_motion(p, level, roi), column_moves = column_motion(p, level, roi);
  const T share = grad / (rows.samples * columns.samples);
  for_each_sample(rows, i, [&](const Sample<T>& y) {
    const EdgeSlopes<T> dy = edge_slopes(row_moves, i, y);
    for_each_sample(columns, j, [&](const Sample<T>& x) {
      const EdgeSlopes<T> dx = edge_slopes(column_moves, j, x);
      const auto at = [&](int64_t row, int64_t column) {
        return static_cast<T>(plane[row * step.h + column * step.w]);
      };
      const T a = at(y.low, x.low), b = at(y.low, x.high), c = at(y.high, x.low), d = at(y.high, x.high);
      const T along_x = share * ((b - a) * (1 - y.fraction) + (d - c) * y.fraction);
      const T along_y = share * ((c - a) * (1 - x.fraction) + (d - b) * x.fraction);
      // a slope of zero has no part in the sum, even of values that are not finite
      if (x.inside) sums[0] += along_x * dx.low, sums[2] += along_x * dx.high;
      if (y.inside) sums[1] += along_y * dy.low, sums[3] += along_y * dy.high;
    });
  });
}

// grad [K, C, P, Q], out [K, 5], zero before; grid K
template <class T, class S>
__global__ void __launch_bounds__(kBlock)
    gradients(const __grid_constant__ BoxGradientArgs<T, S> args, const S* __restrict__ grad, T* __restrict__ out) {
  FV_SHARED(T, partial, [kBlock * 4]);
  const Params& p = args.p;
  const int64_t k = blockIdx.x;
  const T* roi = args.rois + 5 * k;
  const int64_t image = roi::image_of(p.batch, roi), l = level_of(p, roi);
  if (image < 0 || l < 0) return;  // the whole block
  const Strides step = args.maps.step[l];
  const S* map = args.maps.data[l] + image * step.n;
  const int64_t bins = p.pooled_height * p.pooled_width;
  T sums[4] = {0, 0, 0, 0};
  for (int64_t e = threadIdx.x; e < p.channels * bins; e += kBlock) {
    const int64_t c = args.channels_last ? e % p.channels : e / bins;
    const int64_t bin = args.channels_last ? e / p.channels : e % bins;
    const int64_t i = bin / p.pooled_width, j = bin % p.pooled_width;
    const T g = static_cast<T>(grad[k * args.grad.n + c * args.grad.c + i * args.grad.h + j * args.grad.w]);
    add_slopes(p, p.level[l], roi, map + c * step.c, step, i, j, g, sums);
  }
  for (int edge = 0; edge < 4; ++edge) partial[edge * kBlock + threadIdx.x] = sums[edge];
  for (int half = kBlock / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) {
      for (int edge = 0; edge < 4; ++edge) {
        partial[edge * kBlock + threadIdx.x] += partial[edge * kBlock + threadIdx.x + half];
      }
    }
  }
  __syncthreads();
  if (threadIdx.x < 4) out[5 * k + 1 + threadIdx.x] = partial[threadIdx.x * kBlock];
}

}  // namespace

void Cuda::box_gradients(const char* op, const Params& p, const Tensor& grad, const Tensors& maps, const Tensor& rois,
                         Tensor& output) {
  if (grad.numel() == 0) return;
  dispatch_floating(op, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    roi::check_images<T>(op, p.batch, rois);
    const BoxGradientArgs<T, S> args{p, maps_of<const S>(maps), rois.const_data_ptr<T>(), strides_of(grad),
                                     is_channels_last(grad)};
    launch(op, &gradients<T, S>, {blocks_for(rois.size(0), 1), kBlock}, grad, args, grad.const_data_ptr<S>(),
           output.mutable_data_ptr<T>());
  });
}

}  // namespace fastvision::roi_align
