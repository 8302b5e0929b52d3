// conv_transpose2d on the CPU: depthwise layers by planes or by vectors of channels, matrix products for all others.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "common/prefetch.h"
#include "common/stream.h"
#include "common/turn.h"
#include "upsample/depthwise_channels.h"
#include "upsample/diagonal.h"
#include "upsample/overlap_products.h"
#include "upsample/phases.h"
#include "upsample/window_products.h"

namespace fastvision::conv_transpose2d {
namespace {

constexpr const char* kOp = "conv_transpose2d";

// One output channel or more to each input channel: kernels [outputs, y.kernel, x.kernel], output o reads input
// o / multiplier. Rows of a plane are computed one after the other and stored; channels_last, where it comes here at
// all, has the rows of all channels computed first, then turned.
template <class T, class S>
void planes(const Params& p, const S* input, const Strides& in, const T* kernels, const S* bias,
            Activation<T> activation, S* output, const Strides& out) {
  const int64_t multiplier = p.outputs / p.channels, taps = p.y.kernel * p.x.kernel;
  const PaddedPlane<T> padded(p);
  const bool turned = out.w != 1;
  constexpr int64_t kMostAhead = 4096, kSize = int64_t(sizeof(S));  // numbers, bytes
  const int64_t together = turned ? p.outputs : 1, stacks = p.outputs / together;
  const int64_t rows = p.batch * stacks * p.y.out;
  parallel_for(rows, std::max<int64_t>(1, 16384 / (p.x.out * together)), [&](int64_t begin, int64_t end) {
    Row<T> row(p);
    const int64_t inputs = turned ? p.channels : 1;
    Buffer<T> sources(size_t(inputs * padded.size())), lines(size_t(turned ? together * p.x.out : 0));
    const Stream stream(std::is_same_v<S, T> && !turned ? (p.input_size() + p.output_size()) * kSize : 0,
                        p.x.out * kSize);
    vectorized([&]<int kBytes>(RegisterBytes<kBytes>) __attribute__((always_inline)) {
      const Activation<T> activate = activation;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t oy = i % p.y.out, first = i / p.y.out % stacks, n = i / p.y.out / stacks;
        if (i == begin || oy == 0) {
          for (int64_t c = 0; c < inputs; ++c) {
            const S* source = input + n * in.n + (first / multiplier + c) * in.c;
            padded.fill(source, in, p.x.in, sources.data() + c * padded.size());
          }
        }
        S* __restrict target = output + n * out.n + first * out.c + oy * out.h;
        if (!turned && !stream) prefetch_to_write(target, std::min(p.x.out, kMostAhead));
        for (int64_t o = 0; o < together; ++o) {
          const T* plane = sources.data() + o / multiplier * padded.size();
          const T start = bias ? static_cast<T>(bias[first + o]) : T(0);
          const T* sums = row.at(oy, plane, kernels + (first + o) * taps, start);
          if constexpr (std::is_same_v<S, T>) {
            if (stream) {
              const auto at = [&](auto registers, int64_t x) __attribute__((always_inline)) {
                const auto z = registers.load_part(sums + x);
                return activated(z, z, activate.slope);
              };
              stream.write<kBytes>(p.x.out, at, target);
              continue;
            }
          }
          if (turned) {
            T* __restrict line = lines.data() + o * p.x.out;
            for (int64_t x = 0; x < p.x.out; ++x) line[x] = activate(sums[x]);
          } else {
            // NCHW: what is written beyond the row is the start of the next ones, which this thread writes afterwards
            const int64_t whole = whole_vectors<T>(p.x.out), left = (end - i) * p.x.out;
            const int64_t count = whole <= left ? whole : p.x.out;
            for (int64_t x = 0; x < count; ++x) target[x] = static_cast<S>(activate(sums[x]));
          }
        }
        if (turned) transpose(lines.data(), p.x.out, together, p.x.out, target, out.w);
      }
    });
  });
}

bool are_dense_planes(const Params& p, const Strides& in) {
  const auto fits = [](int64_t side, int64_t stride, int64_t dense) { return side == 1 || stride == dense; };
  const Strides dense = dense_strides(p.channels, p.y.in, p.x.in, false);
  return fits(p.batch, in.n, dense.n) && fits(p.channels, in.c, dense.c) && fits(p.y.in, in.h, dense.h) &&
         fits(p.x.in, in.w, dense.w);
}

template <class T, class S>
void run(Params p, const S* input, const Strides& in, const S* weight, const S* bias, Activation<T> activation,
         S* output, const Strides& out) {
  const bool diagonal = is_diagonal(p, weight);
  if (!diagonal && are_windows(p, out)) {
    return window_products<T, S>(p, input, in, weight, bias, activation, output, out);
  }
  if (!diagonal && has_overlap_products(p, out)) {
    return OverlapProducts<T, S>(p, input, in, weight, bias, activation, output, out).run();
  }
  if (!diagonal && p.group_channels() > 1) {
    return PhaseProducts<T, S>(p, input, in, weight, bias, activation, output, out).run();
  }
  const Buffer<T> kernels = kernels_of<T>(p, weight, diagonal);
  if (has_vectors_of_channels<T>(p)) {
    if (out.c == 1) {
      if (in.c == 1) return channel_rows<T, S>(p, input, in, kernels.data(), bias, activation, output, out);
    } else if (are_dense_planes(p, in) && is_faster_turned<S>(p)) {
      Buffer<S> turned_input(size_t(p.batch * p.channels * p.y.in * p.x.in));
      turn(input, p.batch, p.channels, p.y.in * p.x.in, turned_input.data());
      const Strides last = dense_strides(p.channels, p.y.in, p.x.in, true);
      return channel_rows<T, S>(p, turned_input.data(), last, kernels.data(), bias, activation, output, out);
    }
  }
  planes<T, S>(p, input, in, kernels.data(), bias, activation, output, out);
}

Tensor conv_transpose2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                        std::vector<int64_t> geometry, double negative_slope) {
  const Params p = make_params(kOp, input, weight, geometry);
  check_bias(kOp, bias, input, p.outputs);
  Tensor output = empty_map(input, p.batch, p.outputs, p.y.out, p.x.out, is_channels_last(input));
  if (output.numel() == 0) return output;
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor w = contiguous_as(weight, input.scalar_type());
    const std::optional<Tensor> b = bias ? std::optional(contiguous_as(*bias, input.scalar_type())) : std::nullopt;
    run<T, S>(p, input.const_data_ptr<S>(), strides_of(input), w.const_data_ptr<S>(),
              b ? b->const_data_ptr<S>() : nullptr, {T(negative_slope)}, output.mutable_data_ptr<S>(),
              strides_of(output));
  });
  return output;
}

}  // namespace
}  // namespace fastvision::conv_transpose2d

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("conv_transpose2d", TORCH_BOX(&fastvision::conv_transpose2d::conv_transpose2d));
}
