// conv_transpose2d on CUDA: a thread gathers a few output channels of one pixel. For layers whose outputs read few
// numbers each (depthwise, small groups, few channels), which are bound by memory; cuDNN has the others.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "common/scalar.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {
namespace {

constexpr const char* kOp = "conv_transpose2d";
constexpr int kThreads = 128;
constexpr int kOutputs = 4;  // of one thread, which share the inputs it reads

// Blocks along x cover the pixels of an image (channels_last: times the chunks of outputs, which are innermost, so that
// neighbouring threads write neighbouring numbers either way); along y the chunks, along z the images.
template <class T, class S, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads)
    gather(Params p, int64_t first_image, const S* input, Strides in, const S* weight, const S* bias,
           Activation<T> activation, S* output, Strides out) {
  const int64_t outputs = p.group_outputs(), chunks = ceil_div(outputs, int64_t(kOutputs));
  int64_t pixel = int64_t(blockIdx.x) * kThreads + threadIdx.x, chunk = blockIdx.y;
  if (kChannelsLast) chunk = pixel % (chunks * p.groups), pixel /= chunks * p.groups;
  if (pixel >= p.y.out * p.x.out) return;
  const int64_t n = first_image + blockIdx.z, group = chunk / chunks, first = chunk % chunks * kOutputs;
  const int some = int(minimum(outputs - first, int64_t(kOutputs)));
  const int64_t oy = pixel / p.x.out, ox = pixel % p.x.out;
  const int64_t from_y = oy + p.y.padding, from_x = ox + p.x.padding, channels = p.group_channels();
  const int64_t taps = p.y.kernel * p.x.kernel;
  T sums[kOutputs] = {};
  for (int64_t ky = 0; ky < p.y.kernel; ++ky) {
    const int64_t y = from_y - ky * p.y.dilation;
    if (y < 0 || y % p.y.stride != 0 || y / p.y.stride >= p.y.in) continue;
    for (int64_t kx = 0; kx < p.x.kernel; ++kx) {
      const int64_t x = from_x - kx * p.x.dilation;
      if (x < 0 || x % p.x.stride != 0 || x / p.x.stride >= p.x.in) continue;
      const S* source = input + n * in.n + group * channels * in.c + y / p.y.stride * in.h + x / p.x.stride * in.w;
      const S* tap = weight + (group * channels * outputs + first) * taps + ky * p.x.kernel + kx;
      for (int64_t c = 0; c < channels; ++c, source += in.c, tap += outputs * taps) {
        const T value = static_cast<T>(*source);
        for (int r = 0; r < kOutputs; ++r) {
          if (r < some) sums[r] += value * static_cast<T>(tap[r * taps]);
        }
      }
    }
  }
  S* target = output + n * out.n + (group * outputs + first) * out.c + oy * out.h + ox * out.w;
  for (int r = 0; r < kOutputs; ++r) {
    if (r >= some) break;
    const T start = bias ? static_cast<T>(bias[group * outputs + first + r]) : T(0);
    target[r * out.c] = static_cast<S>(activation(sums[r] + start));
  }
}

template <class T, class S>
void run(const Params& p, const Tensor& input, const S* weight, const S* bias, Activation<T> activation,
         const Tensor& output) {
  const bool channels_last = is_channels_last(output);
  const auto kernel = channels_last ? &gather<T, S, true> : &gather<T, S, false>;
  const int64_t chunks = ceil_div(p.group_outputs(), int64_t(kOutputs)) * p.groups, pixels = p.y.out * p.x.out;
  constexpr int64_t kMostImages = 65535;  // along z
  for (int64_t n = 0; n < p.batch; n += kMostImages) {
    const unsigned images = unsigned(std::min(kMostImages, p.batch - n));
    const dim3 grid(blocks_for(pixels * (channels_last ? chunks : 1), kThreads), channels_last ? 1 : unsigned(chunks),
                    images);
    launch(kOp, kernel, {grid, kThreads}, input, p, n, input.const_data_ptr<S>(), strides_of(input), weight, bias,
           activation, output.mutable_data_ptr<S>(), strides_of(output));
  }
}

Tensor conv_transpose2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Pairs stride,
                        Pairs padding, Pairs output_padding, int64_t groups, Pairs dilation,
                        std::string activation_name, double negative_slope) {
  const Params p = make_params(kOp, input, weight, stride, padding, output_padding, groups, dilation);
  check_bias(kOp, bias, input, p.outputs);
  const double slope = activation_slope(kOp, activation_name, negative_slope);
  const Tensor output = empty_map(input, p.batch, p.outputs, p.y.out, p.x.out, is_channels_last(input));
  if (output.numel() == 0) return output;
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor w = contiguous_as(weight, input.scalar_type());
    const std::optional<Tensor> b = bias ? std::optional(contiguous_as(*bias, input.scalar_type())) : std::nullopt;
    run<T, S>(p, input, w.const_data_ptr<S>(), b ? b->const_data_ptr<S>() : nullptr, {T(slope)}, output);
  });
  return output;
}

}  // namespace
}  // namespace fastvision::conv_transpose2d

FV_CUDA_LIBRARY(m) { m.impl("conv_transpose2d", TORCH_BOX(&fastvision::conv_transpose2d::conv_transpose2d)); }
