// Gradients of a transposed convolution of one input plane into one output plane, on the CPU: depthwise layers, and the
// input's of a dense layer that is one in effect.
//
// As in depthwise.h, wide kernels have vectors along their rows, and others along the input, with the rows of the
// output's gradient split by phase, each once.
#pragma once

#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "upsample/depthwise.h"
#include "upsample/split_rows.h"

namespace fastvision::conv_transpose2d {

// Whether a row of the kernel fills vectors.
template <class T>
bool is_wide(const Params& p) {
  return p.x.kernel >= kVectorLanes<T> && p.x.dilation == 1;
}

// Rows of the input's gradient, from one plane of the output's or from several with a kernel each.
template <class T, class S, int kBytes>
class InputGradientRow {
 public:
  explicit InputGradientRow(const Params& p)
      : p_(p),
        wide_(is_wide<T>(p)),
        multiplier_(p.group_outputs()),
        terms_(multiplier_ * p.y.kernel * p.x.kernel),
        lanes_(size_t(wide_ ? p.x.in : 0)),
        sums_(size_t(whole_vectors<T>(p.x.in))) {
    for (int64_t o = 0; o < (wide_ ? 0 : multiplier_); ++o) rows_.emplace_back(p);
  }

  // planes [multiplier, y.out, x.out]
  [[gnu::always_inline]] void start(const S* planes) {
    planes_ = planes;
    for (size_t o = 0; o < rows_.size(); ++o) rows_[o].start(planes + int64_t(o) * p_.y.out * p_.x.out);
  }

  // kernels [multiplier, y.kernel, x.kernel] -> x.in sums
  [[gnu::always_inline]] const T* at(int64_t row, const T* kernels) {
    std::fill_n(sums_.data(), whole_vectors<T>(p_.x.in), T(0));
    if (wide_) std::fill_n(lanes_.data(), p_.x.in, V());
    terms_.clear();
    for (int64_t o = 0; o < multiplier_; ++o) {
      for (int64_t i = 0; i < p_.y.kernel; ++i) {
        const int64_t line = row * p_.y.stride + i * p_.y.dilation - p_.y.padding;
        if (line < 0 || line >= p_.y.out) continue;
        const T* kernel = kernels + (o * p_.y.kernel + i) * p_.x.kernel;
        wide_ ? add_wide(planes_ + (o * p_.y.out + line) * p_.x.out, kernel) : add(rows_[size_t(o)], line, kernel);
      }
    }
    if (wide_) {
      for (int64_t x = 0; x < p_.x.in; ++x) sums_[size_t(x)] += lanes_[size_t(x)].sum();
    } else {
      terms_.add_to(sums_.data(), whole_vectors<T>(p_.x.in));
    }
    return sums_.data();
  }

 private:
  using V = Vector<T, kBytes>;
  static constexpr int kLanes = kVectorLanes<T>;

  [[gnu::always_inline]] void add(SplitRows<T, S>& rows, int64_t line, const T* kernel) {
    const T* row = rows.at(line);
    for (int64_t j = 0; j < p_.x.kernel; ++j) {
      terms_.push(kernel[j], row + p_.x.phase(j) * rows.step() + p_.x.shift(j));
    }
  }

  // Vectors of products are summed up at the end; what is left of windows, and those at the edges, at once.
  [[gnu::always_inline]] void add_wide(const S* source, const T* kernel) {
    const Axis& x = p_.x;
    const int64_t whole = x.kernel / kLanes * kLanes;
    for (int64_t at = 0; at < x.in; ++at) {
      const int64_t first = at * x.stride - x.padding;
      const S* window = source + first;
      const bool inside = first >= 0 && first + x.kernel <= x.out;
      if (inside) {
        V sum = lanes_[size_t(at)];
        for (int64_t k = 0; k < whole; k += kLanes) sum.add(V::load(window + k), V::load(kernel + k));
        lanes_[size_t(at)] = sum;
      }
      const int64_t begin = inside ? whole : std::max(int64_t(0), -first), end = std::min(x.kernel, x.out - first);
      T rest = 0;
      for (int64_t k = begin; k < end; ++k) rest += static_cast<T>(window[k]) * kernel[k];
      sums_[size_t(at)] += rest;
    }
  }

  const Params& p_;
  const bool wide_;
  const int64_t multiplier_;
  Terms<T> terms_;
  std::vector<SplitRows<T, S>> rows_;  // of each output
  Buffer<V> lanes_;
  Buffer<T> sums_;
  const S* planes_ = nullptr;
};

// The gradient of one kernel [y.kernel, x.kernel], row of inputs by row.
template <class T, class S, int kBytes>
class KernelGradient {
 public:
  explicit KernelGradient(const Params& p)
      : p_(p),
        wide_(is_wide<T>(p)),
        taps_(p.y.kernel * p.x.kernel),
        rows_(p),
        inputs_(size_t(whole_vectors<T>(p.x.in))),
        lanes_(size_t(wide_ ? 0 : taps_)),
        sums_(size_t(taps_)) {
    std::fill_n(inputs_.data(), whole_vectors<T>(p.x.in), T(0));  // what lies beyond the row stays zero
  }

  [[gnu::always_inline]] void clear() {
    std::fill_n(sums_.data(), taps_, T(0));
    if (!wide_) std::fill_n(lanes_.data(), taps_, V());
  }

  // plane [y.out, x.out]
  [[gnu::always_inline]] void start(const S* plane) {
    plane_ = plane;
    rows_.start(plane);
  }

  // input: x.in numbers of one row
  [[gnu::always_inline]] void add(int64_t row, const S* input) {
    for (int64_t x = 0; x < p_.x.in; ++x) inputs_[size_t(x)] = static_cast<T>(input[x]);
    for (int64_t i = 0; i < p_.y.kernel; ++i) {
      const int64_t line = row * p_.y.stride + i * p_.y.dilation - p_.y.padding;
      if (line < 0 || line >= p_.y.out) continue;
      if (wide_) {
        add_wide(plane_ + line * p_.x.out, sums_.data() + i * p_.x.kernel);
      } else {
        add_narrow(rows_.at(line), lanes_.data() + i * p_.x.kernel);
      }
    }
  }

  [[gnu::always_inline]] const T* sums() {
    for (int64_t k = 0; k < (wide_ ? 0 : taps_); ++k) sums_[size_t(k)] = lanes_[size_t(k)].sum();
    return sums_.data();
  }

 private:
  using V = Vector<T, kBytes>;
  static constexpr int kLanes = kVectorLanes<T>;
  static constexpr int kTogether = 4;  // vectors of a kernel's row

  // sums[k] += sum_x inputs[x] * source[x * stride + k - padding]
  [[gnu::always_inline]] void add_wide(const S* source, T* sums) {
    const Axis& x = p_.x;
    const int64_t from = std::min(x.in, ceil_div(x.padding, x.stride));
    const int64_t most = x.out + x.padding - x.kernel;  // where the last window inside begins
    const int64_t till = std::clamp(most < 0 ? 0 : most / x.stride + 1, from, x.in);
    int64_t k = 0;
    const S* first = source - x.padding;
    for (; k + kTogether * kLanes <= x.kernel; k += kTogether * kLanes)
      add_vectors<kTogether>(first + k, from, till, sums + k);
    for (; k + kLanes <= x.kernel; k += kLanes) add_vectors<1>(first + k, from, till, sums + k);
    for (int64_t at = 0; at < x.in; ++at) {
      const int64_t begin = at >= from && at < till ? k : std::max(int64_t(0), x.padding - at * x.stride);
      const int64_t end = std::min(x.kernel, x.out + x.padding - at * x.stride);
      const S* window = first + at * x.stride;
      for (int64_t l = begin; l < end; ++l) sums[l] += inputs_[size_t(at)] * static_cast<T>(window[l]);
    }
  }

  template <int kCount>
  [[gnu::always_inline]] void add_vectors(const S* source, int64_t from, int64_t till, T* sums) {
    V total[kCount];
#pragma GCC unroll 4
    for (int v = 0; v < kCount; ++v) total[v] = V::load(sums + v * kLanes);
    for (int64_t at = from; at < till; ++at) {
      const T input = inputs_[size_t(at)];
#pragma GCC unroll 4
      for (int v = 0; v < kCount; ++v) total[v].add(input, V::load(source + at * p_.x.stride + v * kLanes));
    }
#pragma GCC unroll 4
    for (int v = 0; v < kCount; ++v) total[v].store(sums + v * kLanes);
  }

  // lanes[j] += inputs * rows of tap j
  [[gnu::always_inline]] void add_narrow(const T* row, V* lanes) {
    const Axis& x = p_.x;
    const int64_t whole = x.in / kLanes * kLanes, rest = x.in - whole;
    for (int64_t j = 0; j < x.kernel; ++j) {
      const T* source = row + x.phase(j) * rows_.step() + x.shift(j);
      V sum = lanes[j];
      for (int64_t at = 0; at < whole; at += kLanes) sum.add(V::load(inputs_.data() + at), V::load(source + at));
      if (rest > 0) {  // what lies beyond the row belongs to no input
        V last;
        for (int l = 0; l < kLanes; ++l) last.values()[l] = l < rest ? source[whole + l] : T(0);
        sum.add(V::load(inputs_.data() + whole), last);
      }
      lanes[j] = sum;
    }
  }

  const Params& p_;
  const bool wide_;
  const int64_t taps_;
  SplitRows<T, S> rows_;
  Buffer<T> inputs_;
  Buffer<V> lanes_;
  Buffer<T> sums_;
  const S* plane_ = nullptr;
};

// grad [batch, outputs, y.out, x.out], kernels [outputs, y.kernel, x.kernel], output [batch, channels, y.in, x.in]:
// planes without gaps; output o is of input channel o / multiplier.
template <class T, class S>
void input_gradient_planes(const Params& p, const S* grad, const T* kernels, S* output) {
  const int64_t multiplier = p.group_outputs(), taps = p.y.kernel * p.x.kernel;
  const int64_t rows = p.batch * p.channels * p.y.in;
  const int64_t grain = std::max<int64_t>(p.y.kernel / p.y.stride, 1 + 65536 / (p.x.in * taps * multiplier));
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    vectorized([&]<int kBytes>(RegisterBytes<kBytes>) __attribute__((always_inline)) {
      InputGradientRow<T, S, kBytes> row(p);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / p.y.in, channel = plane % p.channels;
        if (i == begin || i % p.y.in == 0) row.start(grad + plane * multiplier * p.y.out * p.x.out);
        const T* sums = row.at(i % p.y.in, kernels + channel * multiplier * taps);
        S* __restrict target = output + i * p.x.in;
        for (int64_t x = 0; x < p.x.in; ++x) target[x] = static_cast<S>(sums[x]);
      }
    });
  });
}

// output [outputs, y.kernel, x.kernel], from grad and input [batch, channels, y.in, x.in]: planes without gaps
//
// Images are added up in parts that depend on sizes alone, so that results do not depend on the number of threads.
template <class T, class S>
void kernel_gradients(const Params& p, const S* grad, const S* input, S* output) {
  constexpr int64_t kPartsOfAll = 256;  // at least as many, if there are images and rows enough
  const int64_t taps = p.y.kernel * p.x.kernel, all_rows = p.batch * p.y.in;
  const int64_t least = ceil_div(taps, p.x.in) + p.y.kernel / p.y.stride;  // rows worth a part
  const int64_t parts = std::clamp(all_rows / least, int64_t(1), ceil_div(kPartsOfAll, p.outputs));
  const int64_t part = ceil_div(all_rows, parts);
  Buffer<T> sums(size_t(p.outputs * parts * taps));
  parallel_for(p.outputs * parts, 1, [&](int64_t begin, int64_t end) {
    vectorized([&]<int kBytes>(RegisterBytes<kBytes>) __attribute__((always_inline)) {
      KernelGradient<T, S, kBytes> gradient(p);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t o = item / parts, c = o / p.group_outputs();
        const int64_t first = std::min(all_rows, item % parts * part), last = std::min(all_rows, first + part);
        gradient.clear();
        for (int64_t row = first; row < last; ++row) {
          const int64_t n = row / p.y.in, y = row % p.y.in;
          if (row == first || y == 0) gradient.start(grad + (n * p.outputs + o) * p.y.out * p.x.out);
          gradient.add(y, input + ((n * p.channels + c) * p.y.in + y) * p.x.in);
        }
        std::copy_n(gradient.sums(), taps, sums.data() + item * taps);
      }
    });
  });
  for (int64_t o = 0; o < p.outputs; ++o) {
    T* total = sums.data() + o * parts * taps;
    for (int64_t i = 1; i < parts; ++i) {
      for (int64_t k = 0; k < taps; ++k) total[k] += total[i * taps + k];
    }
    for (int64_t k = 0; k < taps; ++k) output[o * taps + k] = static_cast<S>(total[k]);
  }
}

}  // namespace fastvision::conv_transpose2d
