// Depthwise transposed convolution by vectors of channels, on the CPU: those of channels_last maps lie side by side in
// the input, the weights and the output. Output planes are turned afterwards, a few rows at a time.
//
// Outputs of one phase that follow each other read the same weights, so a few of them are summed together; they lie
// `stride` pixels apart, so the other phases follow before a row is gone on with, and of large outputs, which have left
// the caches, the lines are asked for ahead or not read at all. The last register of a pixel ends with its last channel
// and overlaps the one before.
#pragma once

#include <algorithm>
#include <vector>

#include "common/host_device.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/prefetch.h"
#include "common/simd.h"
#include "common/stream.h"
#include "common/transpose.h"
#include "upsample/depthwise.h"

namespace fastvision::conv_transpose2d {

// One output for each input channel, of enough channels to fill a register; each phase is set up for itself.
template <class T>
bool has_vectors_of_channels(const Params& p) {
  constexpr int64_t kMostPhases = 256;
  return p.outputs == p.channels && p.channels * int64_t(sizeof(T)) >= vector_bytes() && p.x.stride <= kMostPhases;
}

// Of planes: whether turning them pays. Rows of narrow maps fill few vectors, unless these lie along the kernel, and
// what is turned of small ones stays in the caches.
template <class S>
bool is_faster_turned(const Params& p) {
  if (p.x.stride >= kWideStride) return false;
  if (p.x.in < 32) return true;
  const int64_t bytes = p.batch * p.outputs * p.y.out * p.x.out * int64_t(sizeof(S));
  return vector_bytes() == 32 && bytes < (p.x.stride > 1 ? 8 << 20 : 4 << 20);
}

// Rows of outputs; weights [taps, channels], bias [channels].
template <class T, class S, int kBytes>
class ChannelRows {
 public:
  // out_step: from one output of a row to the next; output: the map, or null if rows go to scratch memory
  ChannelRows(const Params& p, const Strides& in, int64_t out_step, const T* weights, const T* bias,
              Activation<T> activation, const S* output)
      : p_(p),
        in_(in),
        out_step_(out_step),
        rows_(p.y),
        columns_(p.x),
        weights_(weights),
        bias_(bias),
        activation_(activation),
        phases_(size_t(p.x.stride)),
        taps_(size_t(p.y.kernel * p.x.kernel)),
        stream_(output && in_whole_lines(p, output) ? (p.input_size() + p.output_size()) * int64_t(sizeof(S)) : 0, 64) {
    const Axis& x = p.x;
    for (int64_t phase = 0; phase < x.stride; ++phase) {
      const auto& taps = columns_.phases[size_t(phase)];
      const int64_t begin = std::max(ceil_div(x.padding - phase, x.stride), int64_t(0));
      const int64_t end = std::max(ceil_div(x.out + x.padding - phase, x.stride), begin);
      const int64_t inner_begin = std::clamp(taps.empty() ? 0 : taps.back().shift, begin, end);
      const int64_t inner_end = std::clamp(x.in + (taps.empty() ? 0 : taps.front().shift), inner_begin, end);
      phases_[size_t(phase)] = {begin, end, inner_begin, inner_end, 0, 0};
      last_ = std::max(last_, end), first_ = std::max(first_, inner_begin);
    }
    const int64_t position = x.stride * out_step;  // numbers of its outputs
    together_ = std::min(kTogether * std::max(kStay / (kTogether * position), int64_t(1)), last_);
    const bool is_large = output && p.output_size() * int64_t(sizeof(S)) >= kLargeOutput;
    prefetched_ = is_large && !stream_ && together_ * position <= kMostAhead;
  }

  // image, row: its first input and the first output of the row
  [[gnu::always_inline]] void compute(int64_t oy, const S* image, S* row) {
    find_taps(oy);
    for (int64_t q = 0, next = first_ + together_; q < last_; q = next, next += together_) {
      const S* ahead = row + (next * p_.x.stride - p_.x.padding) * out_step_;
      for (int64_t phase = 0; phase < p_.x.stride; ++phase) {
        if (prefetched_) prefetch_to_write(ahead, together_ * out_step_);
        ahead += together_ * out_step_;
        compute_phase(phases_[size_t(phase)], q, next, image, row + (phase - p_.x.padding) * out_step_);
      }
    }
  }

 private:
  using Registers = Vector<T, kBytes>;
  using V = typename Registers::Part;
  static constexpr int kLanes = Registers::kPartLanes;
  static constexpr int kTogether = 8 / Registers::kParts;      // as many sums as hide the latency of an addition
  static constexpr int64_t kStay = 8192 / int64_t(sizeof(S));  // numbers; twice as many stay in the first cache
  static constexpr int64_t kMostAhead = 16 * kStay;            // and in the second
  static constexpr int64_t kLargeOutput = 8 << 20;  // bytes; larger ones are in no cache when they are written again

  // No two registers write to one line, and lines that are written one after the other do not lie too far apart.
  static bool in_whole_lines(const Params& p, const S* output) {
    return std::is_same_v<S, T> && p.channels % kVectorLanes<S> == 0 && p.x.stride <= 4 &&
           reinterpret_cast<uintptr_t>(output) % 64 == 0;
  }

  struct Tap {
    int64_t weight, input, shift;  // offsets; of the input of position 0
  };

  // positions q whose output q * stride + phase - padding exists, those of them whose inputs all do, and taps
  struct Phase {
    int64_t begin, end, inner_begin, inner_end;
    size_t first_tap, last_tap;
  };

  // The taps of each phase whose input rows exist.
  [[gnu::always_inline]] void find_taps(int64_t oy) {
    const int64_t from = oy + p_.y.padding, q = from / p_.y.stride;
    size_t count = 0;
    for (int64_t phase = 0; phase < p_.x.stride; ++phase) {
      phases_[size_t(phase)].first_tap = count;
      for (const auto& y : rows_.phases[size_t(from % p_.y.stride)]) {
        if (q < y.shift || q - y.shift >= p_.y.in) continue;
        for (const auto& x : columns_.phases[size_t(phase)]) {
          taps_[count++] = {(y.k * p_.x.kernel + x.k) * p_.channels, (q - y.shift) * in_.h - x.shift * in_.w, x.shift};
        }
      }
      phases_[size_t(phase)].last_tap = count;
    }
  }

  // Positions [from, to) of a phase, of which position 0 goes to `target`.
  [[gnu::always_inline]] void compute_phase(const Phase& phase, int64_t from, int64_t to, const S* image,
                                            S* target) const {
    const auto at = [&](int64_t q) { return target + q * p_.x.stride * out_step_; };
    const int64_t end = std::min(phase.end, to), inner_begin = std::min(phase.inner_begin, end);
    const int64_t inner_end = std::min(phase.inner_end, end);
    int64_t q = std::max(phase.begin, from);
    for (; q < inner_begin; ++q) sum<1, true>(phase, q, image, at(q));
    for (; q + kTogether <= inner_end; q += kTogether) sum<kTogether, false>(phase, q, image, at(q));
    if (inner_end - q > 1 && inner_end - phase.inner_begin >= kTogether) {  // some of them once more
      q = inner_end - kTogether;
      sum<kTogether, false>(phase, q, image, at(q));
      q = inner_end;
    }
    for (; q < inner_end; ++q) sum<1, false>(phase, q, image, at(q));
    for (; q < end; ++q) sum<1, true>(phase, q, image, at(q));
  }

  // Outputs at positions [q, q + kCount) of a phase, the first to `target`.
  template <int kCount, bool kEdge>
  [[gnu::always_inline]] void sum(const Phase& phase, int64_t q, const S* image, S* target) const {
    constexpr int kWhole = Registers::kParts * kLanes;
    int64_t c = 0;
    for (; p_.channels - c > kLanes && p_.channels >= kWhole; c += kWhole) {
      sum_lanes<kCount, Registers::kParts, kEdge>(phase, q, std::min(c, p_.channels - kWhole), image, target);
    }
    for (; c < p_.channels; c += kLanes) {
      sum_lanes<kCount, 1, kEdge>(phase, q, std::min(c, p_.channels - kLanes), image, target);
    }
  }

  // Of kParts registers of channels from c on.
  template <int kCount, int kParts, bool kEdge>
  [[gnu::always_inline]] void sum_lanes(const Phase& phase, int64_t q, int64_t c, const S* image, S* target) const {
    const int64_t pixel = in_.w, step = p_.x.stride * out_step_;
    const S* inputs = image + q * pixel + c;
    const T* weights = weights_ + c;
    V sums[kCount][kParts];
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      for (int l = 0; l < kParts; ++l) sums[i][l] = Registers::load_part(bias_ + c + l * kLanes);
    }
    const Tap* const last_tap = taps_.data() + phase.last_tap;
    for (const Tap* t = taps_.data() + phase.first_tap; t < last_tap; ++t) {
      const Tap tap = *t;
      if (kEdge && (q < tap.shift || q - tap.shift >= p_.x.in)) continue;
      V weight[kParts];
      for (int l = 0; l < kParts; ++l) weight[l] = Registers::load_part(weights + tap.weight + l * kLanes);
      const S* source = inputs + tap.input;
#pragma GCC unroll 8
      for (int i = 0; i < kCount; ++i) {
        for (int l = 0; l < kParts; ++l) {
          sums[i][l] += weight[l] * Registers::load_part(source + i * pixel + l * kLanes);
        }
      }
    }
    if (activation_.slope != 1) {
      for (auto& z : sums) {
        for (V& part : z) part = activated(part, part, activation_.slope);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      for (int l = 0; l < kParts; ++l) {
        S* const to = target + i * step + c + l * kLanes;
        if constexpr (std::is_same_v<S, T>) {
          if (stream_) {
            stream_.template store<kBytes>(to, sums[i][l]);
            continue;
          }
        }
        Registers::store_part(to, sums[i][l]);
      }
    }
  }

  const Params& p_;
  const Strides in_;
  const int64_t out_step_;
  const Taps rows_, columns_;
  const T *weights_, *bias_;
  const Activation<T> activation_;
  std::vector<Phase> phases_;
  std::vector<Tap> taps_;
  int64_t first_ = 0, last_ = 0;  // positions: with all their inputs, whatever the phase; and behind the last
  int64_t together_;              // positions that are gone through phase by phase
  bool prefetched_;
  const Stream stream_;
};

// kernels [channels, y.kernel, x.kernel]; input: channels_last; output: either.
template <class T, class S>
void channel_rows(const Params& p, const S* input, const Strides& in, const T* kernels, const S* bias,
                  Activation<T> activation, S* output, const Strides& out) {
  constexpr int64_t kTurned = 1 << 14;  // numbers that are turned together
  const int64_t taps = p.y.kernel * p.x.kernel, row = p.x.out * p.channels;
  Buffer<T> weights(size_t(taps * p.channels)), biases(size_t(p.channels));
  for (int64_t c = 0; c < p.channels; ++c) biases[size_t(c)] = bias ? static_cast<T>(bias[c]) : T(0);
  transpose(kernels, taps, p.channels, taps, weights.data(), p.channels);
  const bool planes = out.c != 1;
  const int64_t each_thread = ceil_div(p.batch * p.y.out, 4 * thread_count());  // rows, of a fourth of its work
  const int64_t some = planes ? std::clamp(kTurned / row, int64_t(1), std::min(each_thread, p.y.out)) : 1;
  const int64_t blocks = ceil_div(p.y.out, some);
  parallel_for(p.batch * blocks, std::max<int64_t>(1, 16384 / (some * row)), [&](int64_t begin, int64_t end) {
    Buffer<S> scratch(size_t(planes ? some * row : 0));
    vectorized([&]<int kBytes>(RegisterBytes<kBytes>) __attribute__((always_inline)) {
      ChannelRows<T, S, kBytes> rows(p, in, planes ? p.channels : out.w, weights.data(), biases.data(), activation,
                                     planes ? nullptr : output);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / blocks, first = i % blocks * some, last = std::min(first + some, p.y.out);
        S* target = output + n * out.n + first * out.h;
        for (int64_t oy = first; oy < last; ++oy) {
          rows.compute(oy, input + n * in.n, planes ? scratch.data() + (oy - first) * row : target);
        }
        if (planes) transpose(scratch.data(), p.channels, (last - first) * p.x.out, p.channels, target, out.c);
      }
    });
  });
}

}  // namespace fastvision::conv_transpose2d
