// Transposed convolution of one input plane into one output plane, on the CPU: depthwise layers, bilinear upsampling.
//
// A row of outputs at a time, in the cache. Large strides have many neighbouring outputs that read the same inputs:
// vectors run along the kernel. Small ones have long rows of each phase: vectors run along the input, and the phases
// are interleaved afterwards.
#pragma once

#include <algorithm>
#include <vector>

#include "common/host_device.h"
#include "common/memory.h"
#include "common/simd.h"
#include "common/transpose.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {

constexpr int64_t kWideStride = 16;

// [phases, .., length], rows `step` apart -> [length, phases]
template <class T>
[[gnu::always_inline]] inline void interleave(const T* from, int64_t step, int64_t phases, int64_t length,
                                              T* __restrict out) {
  if (phases != 2) return transpose(from, step, phases, length, out, phases);
  const T *even = from, *odd = from + step;
#pragma GCC ivdep
  for (int64_t l = 0; l < length; ++l) out[2 * l] = even[l], out[2 * l + 1] = odd[l];
}

// The taps of an axis, phase by phase.
struct Taps {
  struct Tap {
    int64_t k, shift;
  };
  explicit Taps(const Axis& axis) : phases(size_t(axis.stride)) {
    for (int64_t k = 0; k < axis.kernel; ++k) phases[size_t(axis.phase(k))].push_back({k, axis.shift(k)});
  }
  std::vector<std::vector<Tap>> phases;
};

// out[i] += sum_m values[m] * rows[m][i]
template <int kTerms, class T>
[[gnu::always_inline]] inline void add_terms(const T* values, const T* const* rows, int64_t count, T* __restrict out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    T sum = out[i];
    for (int m = 0; m < kTerms; ++m) sum += values[m] * rows[m][i];
    out[i] = sum;
  }
}

// A sum of weighted rows, collected first and added a few at a time.
template <class T>
class Terms {
 public:
  explicit Terms(int64_t most) : values_(size_t(most)), rows_(size_t(most)) {}

  [[gnu::always_inline]] void clear() { count_ = 0; }
  [[gnu::always_inline]] void push(T value, const T* row) {
    values_[count_] = value, rows_[count_] = row;
    ++count_;
  }
  [[gnu::always_inline]] void add_to(T* out, int64_t length) const {
    size_t m = 0;
    for (; m + 8 <= count_; m += 8) add_terms<8>(&values_[m], &rows_[m], length, out);
    for (; m + 4 <= count_; m += 4) add_terms<4>(&values_[m], &rows_[m], length, out);
    for (; m + 2 <= count_; m += 2) add_terms<2>(&values_[m], &rows_[m], length, out);
    for (; m < count_; ++m) add_terms<1>(&values_[m], &rows_[m], length, out);
  }

 private:
  std::vector<T> values_;
  std::vector<const T*> rows_;
  size_t count_ = 0;
};

// out[p * stride + i] += sum_m inputs[m][p] * weights[m][i]
template <int kTerms, class T>
[[gnu::always_inline]] inline void add_products(const T* const* inputs, const T* const* weights, int64_t positions,
                                                int64_t stride, int64_t length, T* __restrict out) {
  for (int64_t p = 0; p < positions; ++p, out += stride) {
    T values[kTerms];
    for (int m = 0; m < kTerms; ++m) values[m] = inputs[m][p];
    add_terms<kTerms>(values, weights, length, out);
  }
}

// Runs of weights, each to be added to a row of runs of outputs once for each of a row of inputs.
template <class T>
class Products {
 public:
  explicit Products(int64_t most) : inputs_(size_t(most)), weights_(size_t(most)) {}

  [[gnu::always_inline]] void clear() { count_ = 0; }
  [[gnu::always_inline]] void push(const T* inputs, const T* weights) {
    inputs_[count_] = inputs, weights_[count_] = weights;
    ++count_;
  }
  [[gnu::always_inline]] void add_to(T* out, int64_t positions, int64_t stride, int64_t length) const {
    size_t m = 0;
    for (; m + 4 <= count_; m += 4) add_products<4>(&inputs_[m], &weights_[m], positions, stride, length, out);
    for (; m + 2 <= count_; m += 2) add_products<2>(&inputs_[m], &weights_[m], positions, stride, length, out);
    for (; m < count_; ++m) add_products<1>(&inputs_[m], &weights_[m], positions, stride, length, out);
  }

 private:
  std::vector<const T*> inputs_, weights_;
  size_t count_ = 0;
};

// Input planes for `Row`: `margin` zeros left of each row, and as many right of it as whole vectors of outputs read.
template <class T>
struct PaddedPlane {
  int64_t rows, margin, step;

  explicit PaddedPlane(const Params& p)
      : rows(p.y.in),
        margin(p.x.most_shift()),
        step(std::max(p.x.in, whole_vectors<T>(p.x.positions())) + p.x.most_shift()) {}

  int64_t size() const { return rows * step; }

  template <class S>
  [[gnu::always_inline]] void fill(const S* source, const Strides& s, int64_t columns, T* plane) const {
    std::fill_n(plane, size(), T(0));
    for (int64_t y = 0; y < rows; ++y) {
      T* __restrict row = plane + y * step + margin;
      const S* from = source + y * s.h;
      if (s.w == 1) {
        for (int64_t x = 0; x < columns; ++x) row[x] = static_cast<T>(from[x]);
      } else {
        for (int64_t x = 0; x < columns; ++x) row[x] = static_cast<T>(from[x * s.w]);
      }
    }
  }
};

// One row of outputs at a time, with a vector more of scratch behind it.
template <class T>
class Row {
 public:
  explicit Row(const Params& p)
      : y_(p.y),
        x_(p.x),
        padded_(p),
        rows_(p.y),
        columns_(p.x),
        wide_(p.x.stride >= kWideStride && p.x.dilation == 1),
        terms_(p.y.kernel * p.x.kernel),
        products_(p.y.kernel * (p.x.kernel / p.x.stride)),
        rests_(p.y.kernel) {
    line_.reserve(size_t(whole_vectors<T>(x_.positions()) * x_.stride + kVectorLanes<T>));
    if (!wide_) phases_.reserve(size_t(whole_vectors<T>(x_.positions()) * x_.stride));
  }

  // plane: padded, kernel [y.kernel, x.kernel] -> x.out sums, `bias` among them
  [[gnu::always_inline]] const T* at(int64_t oy, const T* plane, const T* kernel, T bias) {
    const int64_t from = oy + y_.padding;
    const auto& taps = rows_.phases[size_t(from % y_.stride)];
    wide_ ? wide(taps, from / y_.stride, plane, kernel, bias) : narrow(taps, from / y_.stride, plane, kernel, bias);
    return line_.data() + x_.padding;
  }

 private:
  using PhaseTaps = std::vector<Taps::Tap>;

  [[gnu::always_inline]] bool inside(int64_t iy) const { return iy >= 0 && iy < y_.in; }

  // Outputs [q * stride, (q + 1) * stride) read the same inputs, each with a run of the kernel's row.
  [[gnu::always_inline]] void wide(const PhaseTaps& taps, int64_t q, const T* plane, const T* kernel, T bias) {
    const int64_t stride = x_.stride, positions = x_.positions(), whole = x_.kernel / stride;
    std::fill_n(line_.data(), positions * stride, bias);
    products_.clear(), rests_.clear();
    for (const auto& tap : taps) {
      if (!inside(q - tap.shift)) continue;
      const T* inputs = plane + (q - tap.shift) * padded_.step + padded_.margin;
      const T* weights = kernel + tap.k * x_.kernel;
      for (int64_t t = 0; t < whole; ++t) products_.push(inputs - t, weights + t * stride);
      if (whole * stride < x_.kernel) rests_.push(inputs - whole, weights + whole * stride);
    }
    products_.add_to(line_.data(), positions, stride, stride);
    rests_.add_to(line_.data(), positions, stride, x_.kernel - whole * stride);
  }

  [[gnu::always_inline]] void narrow(const PhaseTaps& taps, int64_t q, const T* plane, const T* kernel, T bias) {
    const int64_t stride = x_.stride, padded = whole_vectors<T>(x_.positions());
    T* sums = stride == 1 ? line_.data() : phases_.data();  // [stride, padded]
    std::fill_n(sums, stride * padded, bias);
    for (int64_t phase = 0; phase < stride; ++phase) {
      terms_.clear();
      for (const auto& tap : taps) {
        if (!inside(q - tap.shift)) continue;
        const T* row = plane + (q - tap.shift) * padded_.step + padded_.margin;
        for (const auto& [k, shift] : columns_.phases[size_t(phase)]) {
          terms_.push(kernel[tap.k * x_.kernel + k], row - shift);
        }
      }
      terms_.add_to(sums + phase * padded, padded);
    }
    if (stride > 1) interleave(sums, padded, stride, padded, line_.data());
  }

  const Axis y_, x_;
  const PaddedPlane<T> padded_;
  const Taps rows_, columns_;
  const bool wide_;
  Terms<T> terms_;
  Products<T> products_, rests_;
  Buffer<T> line_, phases_;
};

}  // namespace fastvision::conv_transpose2d
