// bed_of_nails_upsample on the CPU: a row with gaps, and rows of zeros below.
#include <torch/csrc/stable/library.h>

#include "common/copy.h"
#include "upsample/whole_factor.h"

namespace fastvision::bed_of_nails_upsample {
namespace {

using whole_factor::Params, whole_factor::Rows;

template <class W>
[[gnu::always_inline]] inline void set_apart(const Rows& rows, int64_t factor, const W* __restrict from,
                                             W* __restrict to) {
  if (rows.lanes == 1 && factor == 2) {
    for (int64_t x = 0; x < rows.pixels; ++x) to[2 * x] = from[x], to[2 * x + 1] = W(0);
  } else if (rows.lanes == 1) {
    std::fill_n(to, rows.pixels * factor, W(0));
    for (int64_t x = 0; x < rows.pixels; ++x) to[x * factor] = from[x];
  } else {
    for (int64_t x = 0; x < rows.pixels; ++x) {
      W* pixel = to + x * factor * rows.lanes;
      copy(from + x * rows.lanes, rows.lanes, pixel);
      std::fill_n(pixel + rows.lanes, (factor - 1) * rows.lanes, W(0));
    }
  }
}

template <class W>
[[gnu::always_inline]] inline void pick(const Rows& rows, int64_t factor, const W* __restrict from, W* __restrict to) {
  if (rows.lanes == 1 && factor == 2) {
    for (int64_t x = 0; x < rows.pixels; ++x) to[x] = from[2 * x];
    return;
  }
  for (int64_t x = 0; x < rows.pixels; ++x) copy(from + x * factor * rows.lanes, rows.lanes, to + x * rows.lanes);
}

Tensor forward(const Tensor& input, int64_t factor) {
  const Params p = whole_factor::forward_params("bed_of_nails_upsample", input, factor);
  const Tensor source = dense(input);
  Tensor output = whole_factor::empty_output(p, source, true);
  if (output.numel() == 0) return output;
  const Rows rows(p, is_channels_last(source));
  whole_factor::write_rows<whole_factor::Others::kZeros>(
      rows, factor, source, output,
      [&](const auto* from, auto* to) __attribute__((always_inline)) { set_apart(rows, factor, from, to); });
  return output;
}

Tensor backward(const Tensor& grad, int64_t factor) {
  const Params p = whole_factor::backward_params("bed_of_nails_upsample_backward", grad, factor);
  const Tensor source = dense(grad);
  Tensor output = whole_factor::empty_output(p, source, false);
  if (output.numel() == 0) return output;
  const Rows rows(p, is_channels_last(source));
  const int64_t length = rows.length(), grad_length = length * factor;
  const void* from = source.const_data_ptr();
  void* to = output.mutable_data_ptr();
  whole_factor::for_each_row(rows, factor, source, [&](int64_t y, auto word) __attribute__((always_inline)) {
    using W = typename decltype(word)::type;
    pick(rows, factor, static_cast<const W*>(from) + y * factor * grad_length, static_cast<W*>(to) + y * length);
  });
  return output;
}

}  // namespace
}  // namespace fastvision::bed_of_nails_upsample

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("bed_of_nails_upsample", TORCH_BOX(&fastvision::bed_of_nails_upsample::forward));
  m.impl("bed_of_nails_upsample_backward", TORCH_BOX(&fastvision::bed_of_nails_upsample::backward));
}
