// Max pooling without padding, with the place of each value (the switches of Zeiler and Fergus 2014, section 2.1):
// parameters and checks.
#pragma once

#include <algorithm>
#include <vector>

#include "common/dispatch.h"
#include "common/layout.h"

namespace fastvision::max_pool2d_with_indices {

struct Axis {
  int64_t in, kernel, stride, dilation;

  int64_t reach() const { return dilation * (kernel - 1) + 1; }
  int64_t out() const { return (in - reach()) / stride + 1; }
};

// [batch, channels, y.in, x.in] -> values and indices [batch, channels, y.out(), x.out()]
struct Params {
  int64_t batch, channels;
  Axis y, x;
};

// geometry: kernel, stride and dilation, of rows and of columns each
inline Params make_params(const char* op, const Tensor& input, const std::vector<int64_t>& geometry) {
  FV_CHECK(input.dim() == 4, op, "expected an input of shape [N, C, H, W], got ", shape_of(input));
  FV_CHECK(geometry.size() == 6, op, "expected a geometry of 6 numbers, got ", geometry.size());
  for (const int64_t number : geometry) FV_CHECK(number >= 1, op, "expected sizes of at least 1, got ", number);
  // beyond the input a stride of any size comes to the same
  const auto axis = [&](int d) {
    const int64_t in = input.size(2 + d);
    return Axis{in, geometry[d], std::clamp(geometry[2 + d], int64_t(1), std::max(in, int64_t(1))), geometry[4 + d]};
  };
  const Params p{input.size(0), input.size(1), axis(0), axis(1)};
  // each first: the reach of larger numbers need not fit into 64 bits
  const bool small = p.y.kernel <= p.y.in && p.x.kernel <= p.x.in && p.y.dilation <= p.y.in && p.x.dilation <= p.x.in;
  FV_CHECK(p.y.in * p.x.in <= INT32_MAX, op, "expected planes of at most ", INT32_MAX, " pixels, got ",
           shape_of(input));
  FV_CHECK(small && p.y.reach() <= p.y.in && p.x.reach() <= p.x.in, op, "expected windows that fit into the input, ",
           shape_of(input), ", got ", p.y.kernel, " x ", p.x.kernel, " with dilation ", p.y.dilation, " x ",
           p.x.dilation);
  return p;
}

}  // namespace fastvision::max_pool2d_with_indices
