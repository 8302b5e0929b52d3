// nearest_upsample on the CPU: a row of copies, and copies of that row.
#include <torch/csrc/stable/library.h>

#include "common/copy.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "upsample/whole_factor.h"

namespace fastvision::nearest_upsample {
namespace {

using whole_factor::Params, whole_factor::Rows;

template <class W>
[[gnu::always_inline]] inline void repeat_row(const Rows& rows, int64_t factor, const W* __restrict from,
                                              W* __restrict to) {
  if (rows.lanes > 1) {
    for (int64_t x = 0; x < rows.pixels; ++x, from += rows.lanes) {
      for (int64_t j = 0; j < factor; ++j, to += rows.lanes) copy(from, rows.lanes, to);
    }
  } else if (factor == 2) {
    for (int64_t x = 0; x < rows.pixels; ++x) to[2 * x] = from[x], to[2 * x + 1] = from[x];
  } else if (factor == 4) {
    for (int64_t x = 0; x < rows.pixels; ++x) {
      to[4 * x] = from[x], to[4 * x + 1] = from[x], to[4 * x + 2] = from[x], to[4 * x + 3] = from[x];
    }
  } else {
    for (int64_t x = 0; x < rows.pixels; ++x) std::fill_n(to + x * factor, factor, from[x]);
  }
}

// The sums of factor rows, each `length` numbers.
template <class T, class S>
[[gnu::always_inline]] inline void add_rows(const S* __restrict from, int64_t length, int64_t factor,
                                            T* __restrict sums) {
  for (int64_t i = 0; i < length; ++i) sums[i] = static_cast<T>(from[i]);
  for (int64_t r = 1; r < factor; ++r) {
    const S* __restrict row = from + r * length;
    for (int64_t i = 0; i < length; ++i) sums[i] += static_cast<T>(row[i]);
  }
}

template <class T, class S>
[[gnu::always_inline]] inline void add_neighbours(const T* __restrict from, int64_t pixels, int64_t factor,
                                                  S* __restrict to) {
  if (factor == 2) {
    for (int64_t x = 0; x < pixels; ++x) to[x] = static_cast<S>(from[2 * x] + from[2 * x + 1]);
    return;
  }
  for (int64_t x = 0; x < pixels; ++x) {
    T total = from[x * factor];
    for (int64_t j = 1; j < factor; ++j) total += from[x * factor + j];
    to[x] = static_cast<S>(total);
  }
}

// to[c] = the sum over factor x factor pixels of `lanes` channels, rows of them `step` numbers apart. sums: [lanes]
template <class T, class S>
[[gnu::always_inline]] inline void add_pixels(const S* __restrict from, int64_t step, int64_t lanes, int64_t factor,
                                              T* __restrict sums, S* __restrict to) {
  if (factor == 2) {
    const S* __restrict right = from + lanes, * __restrict below = from + step, * __restrict last = below + lanes;
    for (int64_t c = 0; c < lanes; ++c) {
      to[c] = static_cast<S>((static_cast<T>(from[c]) + static_cast<T>(right[c])) +
                             (static_cast<T>(below[c]) + static_cast<T>(last[c])));
    }
    return;
  }
  for (int64_t c = 0; c < lanes; ++c) sums[c] = T(0);
  for (int64_t r = 0; r < factor; ++r) {
    for (int64_t j = 0; j < factor; ++j) {
      const S* __restrict pixel = from + r * step + j * lanes;
      for (int64_t c = 0; c < lanes; ++c) sums[c] += static_cast<T>(pixel[c]);
    }
  }
  for (int64_t c = 0; c < lanes; ++c) to[c] = static_cast<S>(sums[c]);
}

Tensor forward(const Tensor& input, int64_t factor) {
  const Params p = whole_factor::forward_params("nearest_upsample", input, factor);
  const Tensor source = dense(input);
  Tensor output = whole_factor::empty_output(p, source, true);
  if (output.numel() == 0) return output;
  const Rows rows(p, is_channels_last(source));
  whole_factor::write_rows<whole_factor::Others::kCopies>(
      rows, factor, source, output,
      [&](const auto* from, auto* to) __attribute__((always_inline)) { repeat_row(rows, factor, from, to); });
  return output;
}

Tensor backward(const Tensor& grad, int64_t factor) {
  constexpr const char* kOp = "nearest_upsample_backward";
  const Params p = whole_factor::backward_params(kOp, grad, factor);
  const Tensor source = dense(grad);
  Tensor output = whole_factor::empty_output(p, source, false);
  if (output.numel() == 0) return output;
  const Rows rows(p, is_channels_last(source));
  const int64_t length = rows.length(), grad_length = length * factor;
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const S* from = source.const_data_ptr<S>();
    S* to = output.mutable_data_ptr<S>();
    parallel_for(rows.count, rows.grain(factor), [&](int64_t begin, int64_t end) {
      Buffer<T> sums{size_t(grad_length)};
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t y = begin; y < end; ++y) {
          const S* first = from + y * factor * grad_length;
          if (rows.lanes == 1) {
            add_rows(first, grad_length, factor, sums.data());
            add_neighbours(sums.data(), rows.pixels, factor, to + y * length);
            continue;
          }
          for (int64_t x = 0; x < rows.pixels; ++x) {
            add_pixels(first + x * factor * rows.lanes, grad_length, rows.lanes, factor, sums.data(),
                       to + y * length + x * rows.lanes);
          }
        }
      });
    });
  });
  return output;
}

}  // namespace
}  // namespace fastvision::nearest_upsample

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("nearest_upsample", TORCH_BOX(&fastvision::nearest_upsample::forward));
  m.impl("nearest_upsample_backward", TORCH_BOX(&fastvision::nearest_upsample::backward));
}
