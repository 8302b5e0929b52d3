// Depthwise transposed convolution of channels_last maps, on the CPU: vectors run along the channels, which the input,
// the weights and the output all have side by side.
//
// Outputs of one phase that follow each other read the same weights, so a few of them are summed together. The last
// vector of a pixel ends with its last channel and overlaps the one before.
#pragma once

#include <algorithm>
#include <vector>

#include "common/host_device.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "common/transpose.h"
#include "upsample/depthwise.h"

namespace fastvision::conv_transpose2d {

// One output for each input channel, of enough channels; large strides are left to `Row`.
template <class T>
bool has_vectors_of_channels(const Params& p, const Strides& in, const Strides& out) {
  return in.c == 1 && out.c == 1 && p.outputs == p.channels && p.channels >= kVectorLanes<T> &&
         p.x.stride < kWideStride;
}

// Rows of outputs; weights [taps, channels], bias [channels].
template <class T, class S, int kBytes>
class ChannelRows {
 public:
  ChannelRows(const Params& p, const Strides& in, const Strides& out, const T* weights, const T* bias,
              Activation<T> activation)
      : p_(p),
        in_(in),
        out_(out),
        rows_(p.y),
        columns_(p.x),
        weights_(weights),
        bias_(bias),
        activation_(activation),
        taps_(size_t(p.y.kernel * p.x.kernel)) {}

  // image, row: its first input and the first output of the row
  [[gnu::always_inline]] void compute(int64_t oy, const S* image, S* row) {
    const Axis& x = p_.x;
    for (int64_t phase = 0; phase < x.stride; ++phase) {
      find_taps(oy, phase);
      // positions q whose output q * stride + phase - padding exists, and those of them whose inputs all do
      const auto& taps = columns_.phases[size_t(phase)];
      const int64_t begin = std::max(ceil_div(x.padding - phase, x.stride), int64_t(0));
      const int64_t end = std::max(ceil_div(x.out + x.padding - phase, x.stride), begin);
      const int64_t inner_begin = std::clamp(taps.empty() ? 0 : taps.back().shift, begin, end);
      const int64_t inner_end = std::clamp(x.in + (taps.empty() ? 0 : taps.front().shift), inner_begin, end);
      const auto at = [&](int64_t q) { return row + (q * x.stride + phase - x.padding) * out_.w; };
      int64_t q = begin;
      for (; q < inner_begin; ++q) sum<1, true>(q, image, at(q));
      for (; q + kTogether <= inner_end; q += kTogether) sum<kTogether, false>(q, image, at(q));
      for (; q < inner_end; ++q) sum<1, false>(q, image, at(q));
      for (; q < end; ++q) sum<1, true>(q, image, at(q));
    }
  }

 private:
  using V = Vector<T, kBytes>;
  static constexpr int kTogether = 8 / V::kParts;  // as many sums as hide the latency of an addition

  struct Tap {
    int64_t weight, input, shift;  // offsets; of the input of position 0
  };

  // The taps of a phase whose input rows exist.
  [[gnu::always_inline]] void find_taps(int64_t oy, int64_t phase) {
    count_ = 0;
    const int64_t from = oy + p_.y.padding, q = from / p_.y.stride;
    for (const auto& y : rows_.phases[size_t(from % p_.y.stride)]) {
      if (q < y.shift || q - y.shift >= p_.y.in) continue;
      for (const auto& x : columns_.phases[size_t(phase)]) {
        taps_[count_++] = {(y.k * p_.x.kernel + x.k) * p_.channels, (q - y.shift) * in_.h - x.shift * in_.w, x.shift};
      }
    }
  }

  // Outputs at positions [q, q + kCount) of a phase, the first to `target`.
  template <int kCount, bool kEdge>
  [[gnu::always_inline]] void sum(int64_t q, const S* image, S* target) const {
    const int64_t pixel = in_.w, step = p_.x.stride * out_.w;
    for (int64_t block = 0; block < p_.channels; block += kVectorLanes<T>) {
      const int64_t c = std::min(block, p_.channels - kVectorLanes<T>);
      const S* inputs = image + q * pixel + c;
      const T* weights = weights_ + c;
      V sums[kCount];
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) sums[i] = V::load(bias_ + c);
      for (size_t t = 0; t < count_; ++t) {
        const Tap& tap = taps_[t];
        if (kEdge && (q < tap.shift || q - tap.shift >= p_.x.in)) continue;
        const V weight = V::load(weights + tap.weight);
        const S* source = inputs + tap.input;
#pragma GCC unroll 8
        for (int i = 0; i < kCount; ++i) sums[i].add(weight, V::load(source + i * pixel));
      }
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        if (activation_.slope == 1) {
          sums[i].store(target + i * step + c);
        } else {
          V active = sums[i];  // a copy: the sums stay in registers
          for (int l = 0; l < kVectorLanes<T>; ++l) active.values()[l] = activation_(active.values()[l]);
          active.store(target + i * step + c);
        }
      }
    }
  }

  const Params& p_;
  const Strides in_, out_;
  const Taps rows_, columns_;
  const T *weights_, *bias_;
  const Activation<T> activation_;
  std::vector<Tap> taps_;
  size_t count_ = 0;
};

// kernels [channels, y.kernel, x.kernel]
template <class T, class S>
void channel_rows(const Params& p, const S* input, const Strides& in, const T* kernels, const S* bias,
                  Activation<T> activation, S* output, const Strides& out) {
  const int64_t taps = p.y.kernel * p.x.kernel;
  Buffer<T> weights(size_t(taps * p.channels)), biases(size_t(p.channels));
  for (int64_t c = 0; c < p.channels; ++c) biases[size_t(c)] = bias ? static_cast<T>(bias[c]) : T(0);
  transpose(kernels, taps, p.channels, taps, weights.data(), p.channels);
  const int64_t grain = std::max<int64_t>(1, 16384 / (p.x.out * p.channels));
  parallel_for(p.batch * p.y.out, grain, [&](int64_t begin, int64_t end) {
    vectorized([&]<int kBytes>(RegisterBytes<kBytes>) __attribute__((always_inline)) {
      ChannelRows<T, S, kBytes> rows(p, in, out, weights.data(), biases.data(), activation);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / p.y.out, oy = i % p.y.out;
        rows.compute(oy, input + n * in.n, output + n * out.n + oy * out.h);
      }
    });
  });
}

}  // namespace fastvision::conv_transpose2d
