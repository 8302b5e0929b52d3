// mask_logits on CUDA: the hidden map is a dense matrix product, which is cuDNN's; what follows reads it once,
// neighbours by neighbouring threads. Where pixels lie side by side, a pixel has a lane of each warp of a block, where
// units do, a warp.
#include "common/conv_transpose.h"
#include "common/cuda_library.cuh"
#include "masks/mask_logits.h"

namespace fastvision::mask_logits {
namespace {

constexpr int kThreads = 128;

// Threads that share the units of a pixel.
template <bool kChannelsLast>
inline constexpr int kTogether = kChannelsLast ? kWarp : kThreads / kWarp;

template <class T>
struct Args {
  int64_t rois, units, pixels, classes;  // pixels of a hidden map
  Layers<T> layers;
};

// hidden [R, O, pixels], channels_last: [R, pixels, O]; out [R, pixels]
template <class T, class S, class R, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads)
    select(const __grid_constant__ Args<T> args, const S* __restrict__ hidden, R* __restrict__ out) {
  FV_SHARED(T, sums, [kThreads]);
  constexpr int kPixels = kThreads / kTogether<kChannelsLast>;  // of a block
  const int t = threadIdx.x, warp = t / kWarp, lane = t % kWarp;
  const int pixel_of_block = kChannelsLast ? warp : lane, part = kChannelsLast ? lane : warp;
  const int64_t place = int64_t(blockIdx.x) * kPixels + pixel_of_block;
  const bool inside = place < args.rois * args.pixels;
  const int64_t roi = inside ? place / args.pixels : 0, pixel = place % args.pixels;
  const int64_t label = inside ? args.layers.labels[roi] : -1;
  const bool any = label >= 0 && label < args.classes;
  const T* share = args.layers.class_weight + (any ? label : 0) * args.units;
  const int64_t step = kChannelsLast ? 1 : args.pixels, units = any ? args.units : 0;
  const S* unit = hidden + (kChannelsLast ? place * args.units : roi * args.units * args.pixels + pixel);
  T sum = 0;
#pragma unroll 8
  for (int64_t o = part; o < units; o += kTogether<kChannelsLast>) {
    sum += share[o] * relu(static_cast<T>(unit[o * step]) + args.layers.bias[o]);
  }
  sums[part * kPixels + pixel_of_block] = sum;
  __syncthreads();
  if (t >= kPixels) return;
  const int64_t mine = int64_t(blockIdx.x) * kPixels + t;
  if (mine >= args.rois * args.pixels) return;
  const int64_t of = args.layers.labels[mine / args.pixels];
  const bool exists = of >= 0 && of < args.classes;
  T total = exists ? args.layers.class_bias[of] : T(0);
  for (int i = 0; i < kTogether<kChannelsLast>; ++i) total += sums[i * kPixels + t];
  out[mine] = static_cast<R>(total);
}

// [R, O, 2H, 2W], in the dtype of the features if the weight has it too, else that of sums.
Tensor hidden_map(const Params& p, const Tensor& features, const Tensor& weight) {
  const bool alike = weight.scalar_type() == features.scalar_type();
  const ScalarType type = alike ? features.scalar_type() : geometry_type(features.scalar_type());
  if (p.channels == 0 || p.hidden == 0) {  // which torch would call an error
    return clear_tensor(empty_tensor(features, {p.rois, p.hidden, 2 * p.height, 2 * p.width}, type));
  }
  const Tensor input = as_type(features, type);
  const Tensor hidden = torch_conv_transpose2d(input, contiguous_as(weight, type), 2);
  return is_channels_last(hidden) ? hidden : contiguous_as(hidden, hidden.scalar_type());
}

Tensor mask_logits(const Tensor& features, const Tensor& weight, const Tensor& bias, const Tensor& class_weight,
                   const Tensor& class_bias, const Tensor& labels) {
  const Inputs in{weight, bias, class_weight, class_bias, labels};
  const Params p = make_params(features, in);
  Tensor out = empty_output(p, features);
  if (out.numel() == 0) return out;
  const Tensor hidden = hidden_map(p, features, weight);
  const bool channels_last = is_channels_last(hidden);
  // of the parameters, the weight is the convolution's
  const Inputs plain =
      contiguous_inputs({bias, bias, class_weight, class_bias, labels}, geometry_type(features.scalar_type()));
  dispatch_floating(kOp, features.scalar_type(), [&](auto r) {
    using R = typename decltype(r)::type;
    using T = Accumulator<R>;
    const Args<T> args{p.rois, p.hidden, 4 * p.pixels(), p.classes, plain.layers<T>()};
    const int64_t threads = p.rois * args.pixels * (channels_last ? kTogether<true> : kTogether<false>);
    const auto run = [&](auto s) {
      using S = typename decltype(s)::type;
      const auto kernel = channels_last ? &select<T, S, R, true> : &select<T, S, R, false>;
      launch(kOp, kernel, {blocks_for(threads, kThreads), kThreads}, features, args, hidden.const_data_ptr<S>(),
             out.mutable_data_ptr<R>());
    };
    dispatch_floating(kOp, hidden.scalar_type(), run);
  });
  return out;
}

}  // namespace
}  // namespace fastvision::mask_logits

FV_CUDA_LIBRARY(m) { m.impl("mask_logits", TORCH_BOX(&fastvision::mask_logits::mask_logits)); }
