// conv_transpose2d on CUDA, for layers whose outputs read few numbers each (depthwise, small groups, few channels),
// which are bound by memory; cuDNN has the others.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "upsample/gather.cuh"

namespace fastvision::conv_transpose2d {
namespace {

constexpr const char* kOp = "conv_transpose2d";

// Weights laid out for gather: [groups, chunks, rows, channels, taps of a row, outputs of a chunk], or with groups and
// chunks last but one; zeros past the last output of a group.
struct PackedWeights {
  int64_t groups, channels, outputs, rows, taps;  // channels and outputs of a group, taps of a row
  int64_t width;                                  // outputs of a chunk
  bool groups_last;

  FV_HOST_DEVICE int64_t chunks() const { return ceil_div(outputs, width); }
  FV_HOST_DEVICE int64_t count() const { return groups * chunks() * rows * channels * taps * width; }
  WeightSteps steps() const {
    const int64_t tap = groups_last ? groups * chunks() * width : width, channel = taps * tap, row = channels * channel;
    if (groups_last) return {chunks() * width, width, row, channel, tap};
    return {chunks() * rows * row, rows * row, row, channel, tap};
  }
};

// weight [groups, channels, outputs, rows, taps]
template <class S>
__global__ void __launch_bounds__(kThreads)
    pack(const PackedWeights size, const S* __restrict__ weight, S* __restrict__ packed) {
  const int64_t e = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= size.count()) return;
  const int64_t parts = size.groups * size.chunks(), window = size.rows * size.channels * size.taps;
  const int64_t rest = e / size.width, part = size.groups_last ? rest % parts : rest / window;
  const int64_t in_window = size.groups_last ? rest / parts : rest % window;
  const int64_t tap = in_window % size.taps, c = in_window / size.taps % size.channels;
  const int64_t row = in_window / size.taps / size.channels, group = part / size.chunks();
  const int64_t o = part % size.chunks() * size.width + e % size.width;
  const int64_t from = (((group * size.channels + c) * size.outputs + o) * size.rows + row) * size.taps + tap;
  packed[e] = o < size.outputs ? weight[from] : S(0);
}

// The tensors of a call; weight as the steps say.
template <class S>
struct Call {
  Params p;
  Tensor input;
  const S *weight, *bias;
  double slope;
  Tensor output;
  WeightSteps steps;
};

template <class S, int kOutputs, int kColumns, bool kChannelsLast>
void run(const Call<S>& call) {
  using T = Accumulator<S>;
  const Params& p = call.p;
  const Line y(p.y), x(p.x);
  const int64_t chunks = ceil_div(p.group_outputs(), int64_t(kOutputs));
  const int64_t columns = ceil_div(p.x.out + p.x.padding % kColumns, int64_t(kColumns));
  const int64_t heights = ceil_div(p.y.positions(), int64_t(kRows<kColumns>));
  const bool aligned = !kChannelsLast && p.x.out % kColumns == 0 && p.x.padding % kColumns == 0;
  const Steps in(call.input), out(call.output);
  const Work work{y,
                  x,
                  int(p.group_channels()),
                  int(p.group_outputs()),
                  int(p.groups),
                  int(chunks),
                  int(columns),
                  int(heights),
                  in,
                  out,
                  call.steps,
                  aligned};
  const int64_t parts = chunks * p.groups, threads = columns * heights * y.stride * (kChannelsLast ? parts : 1);
  FV_CHECK(threads <= UINT32_MAX - kWarp, kOp, "expected an image of fewer outputs on CUDA, got ",
           shape_of(call.output));
  LaunchShape shape{blocks_for(threads, kThreads), kThreads};
  if (kByWarps<kOutputs, kChannelsLast>) {
    const int64_t blocks = ceil_div(heights, int64_t(kMostWarps)), warps = ceil_div(heights, blocks);
    shape = {blocks_for(parts * columns, kWarp) * unsigned(blocks * y.stride), unsigned(kWarp * warps)};
  } else if (!kChannelsLast) {
    shape.grid.y = blocks_for(parts, 1);
  }
  constexpr int64_t kMostImages = 65535;  // along z
  for (int64_t n = 0; n < p.batch; n += kMostImages) {
    shape.grid.z = unsigned(std::min(kMostImages, p.batch - n));
    launch(kOp, &gather<T, S, kOutputs, kColumns, kChannelsLast>, shape, call.input, work,
           call.input.template const_data_ptr<S>() + n * in.n, call.weight, call.bias, Activation<T>{T(call.slope)},
           call.output.template mutable_data_ptr<S>() + n * out.n);
  }
}

// Of one output channel a group: four columns at once where the stride and the kernel allow it.
template <class S, bool kChannelsLast>
void run_single(const Call<S>& call) {
  const Axis& x = call.p.x;
  const bool aligned = reinterpret_cast<uintptr_t>(call.weight) % (kMany * sizeof(S)) == 0;
  const bool wide = x.stride % kMany == 0 && x.kernel % kMany == 0 && x.dilation == 1 && aligned;
  wide ? run<S, 1, kMany, kChannelsLast>(call) : run<S, 1, 1, kChannelsLast>(call);
}

// Weights as they are suit threads that are neighbours along a row and have one channel each.
template <class S>
void compute(Call<S> call) {
  const Params& p = call.p;
  const bool channels_last = is_channels_last(call.output), many = p.group_outputs() > 1;
  const int64_t channels = p.group_channels(), rows = p.y.kernel, taps = p.x.kernel;
  if (!channels_last && !many) {
    call.steps = {channels * rows * taps, 0, taps, rows * taps, 1};
    return run_single<S, false>(call);
  }
  const PackedWeights size{p.groups, channels, p.group_outputs(), rows, taps, many ? kMany : 1, channels_last};
  const Tensor packed = empty_vector(call.input, size.count());
  S* w = packed.mutable_data_ptr<S>();
  launch(kOp, &pack<S>, {blocks_for(size.count(), kThreads), kThreads}, call.input, size, call.weight, w);
  call.weight = w, call.steps = size.steps();
  const auto kernel = !many ? &run_single<S, true> : channels_last ? &run<S, kMany, 1, true> : &run<S, kMany, 1, false>;
  kernel(call);
}

Tensor conv_transpose2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                        std::vector<int64_t> geometry, double negative_slope) {
  const Params p = make_params(kOp, input, weight, geometry);
  check_bias(kOp, bias, input, p.outputs);
  const Tensor output = empty_map(input, p.batch, p.outputs, p.y.out, p.x.out, is_channels_last(input));
  if (output.numel() == 0) return output;
  for (const Axis* axis : {&p.y, &p.x}) {
    const int64_t side = axis->out + 2 * axis->padding;
    FV_CHECK(side < kMostSide, kOp, "expected padded sides below 2^26 on CUDA, got ", side);
  }
  const Tensor plain = Steps::fit(input) ? input : torch::stable::contiguous(input);
  FV_CHECK(Steps::fit(plain) && Steps::fit(output), kOp, "expected rows of less than 2^26 numbers on CUDA, got ",
           shape_of(output));
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    const Tensor w = contiguous_as(weight, input.scalar_type());
    const std::optional<Tensor> b = bias ? std::optional(contiguous_as(*bias, input.scalar_type())) : std::nullopt;
    compute<S>({p, plain, w.const_data_ptr<S>(), b ? b->const_data_ptr<S>() : nullptr, negative_slope, output, {}});
  });
  return output;
}

}  // namespace
}  // namespace fastvision::conv_transpose2d

FV_CUDA_LIBRARY(m) { m.impl("conv_transpose2d", TORCH_BOX(&fastvision::conv_transpose2d::conv_transpose2d)); }
