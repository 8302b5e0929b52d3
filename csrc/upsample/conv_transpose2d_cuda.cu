// conv_transpose2d on CUDA, for layers whose outputs read few numbers each (depthwise, small groups, few channels),
// which are bound by memory; cuDNN has the others.
//
// A thread has kRows outputs of one column that lie `stride` rows apart: they read the same taps (one sub-pixel phase,
// see phases.h), so a weight is read once for all of them. Where a group has several output channels, it has four of
// them, and every input is read once for those.
#include <numeric>

#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "common/scalar.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {
namespace {

constexpr const char* kOp = "conv_transpose2d";
constexpr int kThreads = 128;
constexpr int kRows = 4;
constexpr int kMany = 4;  // output channels of a thread where a group has more than one

constexpr int64_t kMostSide = 1 << 30;  // of an output with its padding: indices and divisions have 32 bits

// An axis in 32 bits.
struct Line {
  int in, out, kernel, stride, padding, dilation;
  int phases;            // that have outputs
  int step, shift_step;  // from a tap to the next of the same phase, and from the shift of one to that of the other

  explicit Line(const Axis& a)
      : in(int(a.in)),
        out(int(a.out)),
        kernel(int(a.kernel)),
        stride(narrow(a.stride)),
        padding(int(a.padding)),
        dilation(narrow(a.dilation)),
        phases(int(std::min(a.stride, a.out + a.padding))),
        step(narrow(a.stride / std::gcd(a.stride, a.dilation))),
        shift_step(narrow(a.dilation / std::gcd(a.stride, a.dilation))) {}

  // The first tap of a phase; kernel or more if it has none.
  FV_DEVICE int first_tap(int phase) const {
    if (dilation == 1) return phase;
    int k = 0;
    while (k < kernel && k * dilation % stride != phase) ++k;
    return k;
  }
  // Input positions that a tap lies before the one of its output.
  FV_DEVICE int shift(int tap) const { return tap < kernel ? tap * dilation / stride : 0; }

 private:
  // A stride over a single input and the dilation of a single tap may be any number.
  static int narrow(int64_t x) { return int(std::min(x, kMostSide)); }
};

// Where weights lie, in numbers; output channels of a group side by side, kMany at a time if they are many.
struct WeightSteps {
  int64_t group, tap, channel;
};

struct Work {
  Line y, x;
  int channels, outputs, groups;  // the first two of a group
  int chunks;                     // of outputs of a group that a thread has
  int column_tiles;               // blocks side by side
  int items;                      // kRows of the rows of a phase, for each
  Strides in, out;
  WeightSteps weight;
};

// As many numbers as are read at once.
template <class S, int kCount>
struct alignas(kCount * sizeof(S)) Pack {
  S of[kCount];
};

// Blocks along x cover the columns (channels_last: times the chunks of outputs, which are innermost, so that
// neighbouring threads write neighbouring numbers either way) and the rows; along y the chunks, along z the images.
template <class T, class S, int kOutputs, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads)
    gather(const __grid_constant__ Work work, const S* __restrict__ input, const S* __restrict__ weight,
           const S* __restrict__ bias, Activation<T> activation, S* __restrict__ output) {
  const Line &y = work.y, &x = work.x;
  const unsigned chunks = unsigned(work.chunks) * unsigned(work.groups);
  unsigned column = blockIdx.x % unsigned(work.column_tiles) * blockDim.x + threadIdx.x, chunk = blockIdx.y;
  if (kChannelsLast) chunk = column % chunks, column /= chunks;
  const unsigned item = blockIdx.x / unsigned(work.column_tiles) * blockDim.y + threadIdx.y;
  if (column >= unsigned(x.out) || item >= unsigned(work.items)) return;
  const int group = int(chunk / unsigned(work.chunks)), first = int(chunk % unsigned(work.chunks)) * kOutputs;
  const int phase = int(item % unsigned(y.phases)), position = int(item / unsigned(y.phases)) * kRows;
  const unsigned from = column + unsigned(x.padding), across = from / unsigned(x.stride);
  const S* image = input + blockIdx.z * work.in.n + int64_t(group) * work.channels * work.in.c;
  const S* taps = weight + group * work.weight.group + first;
  T sums[kRows][kOutputs] = {};
  const int first_kx = x.first_tap(int(from % unsigned(x.stride))), first_x = int(across) - x.shift(first_kx);
  int ky = y.first_tap(phase), top = position - y.shift(ky);
  for (; ky < y.kernel; ky += y.step, top -= y.shift_step) {
    for (int kx = first_kx, column_in = first_x; kx < x.kernel; kx += x.step, column_in -= x.shift_step) {
      if (unsigned(column_in) >= unsigned(x.in)) continue;
      const S* source = image + column_in * work.in.w + top * work.in.h;
      const S* tap = taps + (int64_t(ky) * x.kernel + kx) * work.weight.tap;
#pragma unroll 2
      for (int c = 0; c < work.channels; ++c, source += work.in.c, tap += work.weight.channel) {
        const Pack<S, kOutputs> weights = *reinterpret_cast<const Pack<S, kOutputs>*>(tap);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          if (unsigned(top + i) >= unsigned(y.in)) continue;
          const T value = static_cast<T>(source[i * work.in.h]);
#pragma unroll
          for (int r = 0; r < kOutputs; ++r) sums[i][r] += value * static_cast<T>(weights.of[r]);
        }
      }
    }
  }
  const int channel = group * work.outputs + first, some = minimum(work.outputs - first, kOutputs);
  S* target = output + blockIdx.z * work.out.n + channel * work.out.c + column * work.out.w;
#pragma unroll
  for (int r = 0; r < kOutputs; ++r) {
    if (r >= some) break;
    const T start = bias ? static_cast<T>(bias[channel + r]) : T(0);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = int64_t(position + i) * y.stride + phase - y.padding;
      if (row < 0 || row >= y.out) continue;
      target[r * work.out.c + row * work.out.h] = static_cast<S>(activation(sums[i][r] + start));
    }
  }
}

// What packed weights are: zeros past the last output of a group.
struct PackedSize {
  int64_t channels, outputs, padded, groups, taps;
  bool groups_innermost;

  FV_HOST_DEVICE int64_t count() const { return groups * taps * channels * padded; }
  FV_HOST_DEVICE WeightSteps steps() const {
    return groups_innermost ? WeightSteps{1, channels * groups, groups}
                            : WeightSteps{taps * channels * padded, channels * padded, padded};
  }
};

// weight [groups, channels, outputs, taps] -> [groups, taps, channels, padded outputs] or, of one output each, [taps,
// channels, groups]
template <class S>
__global__ void __launch_bounds__(kThreads)
    pack(const PackedSize size, const S* __restrict__ weight, S* __restrict__ packed) {
  const int64_t e = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= size.count()) return;
  const int64_t inner = size.groups_innermost ? size.groups : size.padded;
  const int64_t i = e % inner, c = e / inner % size.channels, rest = e / inner / size.channels, tap = rest % size.taps;
  const int64_t group = size.groups_innermost ? i : rest / size.taps, o = size.groups_innermost ? 0 : i;
  const int64_t from = ((group * size.channels + c) * size.outputs + o) * size.taps + tap;
  packed[e] = o < size.outputs ? weight[from] : S(0);
}

template <class S, int kOutputs, bool kChannelsLast>
void run(const Params& p, const Tensor& input, const S* weight, const S* bias, double slope, const Tensor& output,
         const WeightSteps& steps) {
  using T = Accumulator<S>;
  const int64_t chunks = ceil_div(p.group_outputs(), int64_t(kOutputs));
  const int64_t lines = p.x.out * (kChannelsLast ? chunks * p.groups : 1);  // threads along a row
  int width = 8;
  while (width < kThreads && width < lines) width *= 2;
  const int64_t column_tiles = blocks_for(lines, width);
  const int64_t items = p.y.stride * ceil_div(p.y.positions(), int64_t(kRows));
  const Work work{
      Line(p.y),         Line(p.x),  int(p.group_channels()), int(p.group_outputs()), int(p.groups), int(chunks),
      int(column_tiles), int(items), strides_of(input),       strides_of(output),     steps};
  constexpr int64_t kMostImages = 65535;  // along z
  const unsigned blocks = blocks_for(column_tiles * ceil_div(items, int64_t(kThreads / width)), 1);
  for (int64_t n = 0; n < p.batch; n += kMostImages) {
    const unsigned images = unsigned(std::min(kMostImages, p.batch - n));
    const dim3 grid(blocks, kChannelsLast ? 1 : blocks_for(chunks * p.groups, 1), images);
    launch(kOp, &gather<T, S, kOutputs, kChannelsLast>, {grid, dim3(width, kThreads / width)}, input, work,
           input.const_data_ptr<S>() + n * input.stride(0), weight, bias, Activation<T>{T(slope)},
           output.mutable_data_ptr<S>() + n * output.stride(0));
  }
}

// Weights as they are suit threads that are neighbours along a row and have one channel each.
template <class S>
void compute(const Params& p, const Tensor& input, const Tensor& weight, const S* bias, double slope,
             const Tensor& output) {
  const bool channels_last = is_channels_last(output), many = p.group_outputs() > 1;
  const int64_t channels = p.group_channels(), outputs = p.group_outputs(), taps = p.y.kernel * p.x.kernel;
  const S* given = weight.const_data_ptr<S>();
  if (!channels_last && !many) {
    return run<S, 1, false>(p, input, given, bias, slope, output, {channels * taps, 1, taps});
  }
  const PackedSize size{channels, outputs, many ? ceil_div(outputs, int64_t(kMany)) * kMany : 1, p.groups, taps, !many};
  const Tensor packed = torch::stable::new_empty(weight, {size.count()});
  S* w = packed.mutable_data_ptr<S>();
  launch(kOp, &pack<S>, {blocks_for(size.count(), kThreads), kThreads}, weight, size, given, w);
  const auto kernel = !many ? &run<S, 1, true> : channels_last ? &run<S, kMany, true> : &run<S, kMany, false>;
  kernel(p, input, w, bias, slope, output, size.steps());
}

Tensor conv_transpose2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, Pairs stride,
                        Pairs padding, Pairs output_padding, int64_t groups, Pairs dilation,
                        std::string activation_name, double negative_slope) {
  const Params p = make_params(kOp, input, weight, stride, padding, output_padding, groups, dilation);
  check_bias(kOp, bias, input, p.outputs);
  const double slope = activation_slope(kOp, activation_name, negative_slope);
  const Tensor output = empty_map(input, p.batch, p.outputs, p.y.out, p.x.out, is_channels_last(input));
  if (output.numel() == 0) return output;
  for (const Axis* axis : {&p.y, &p.x}) {
    FV_CHECK(axis->out + 2 * axis->padding < kMostSide, kOp, "expected sides below 2^30 on CUDA, got ", axis->out);
  }
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    const Tensor w = contiguous_as(weight, input.scalar_type());
    const std::optional<Tensor> b = bias ? std::optional(contiguous_as(*bias, input.scalar_type())) : std::nullopt;
    compute<S>(p, input, w, b ? b->const_data_ptr<S>() : nullptr, slope, output);
  });
  return output;
}

}  // namespace
}  // namespace fastvision::conv_transpose2d

FV_CUDA_LIBRARY(m) { m.impl("conv_transpose2d", TORCH_BOX(&fastvision::conv_transpose2d::conv_transpose2d)); }
