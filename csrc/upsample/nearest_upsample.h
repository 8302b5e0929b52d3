// Upsampling by repetition: every pixel becomes factor x factor copies of itself, and its gradient is their sum.
#pragma once

#include "common/dispatch.h"
#include "common/layout.h"

namespace fastvision::nearest_upsample {

// [batch, channels, height, width] -> [batch, channels, height * factor, width * factor]
struct Params {
  int64_t batch, channels, height, width, factor;

  int64_t out_width() const { return width * factor; }
};

inline void check_map(const char* op, const char* what, const Tensor& map, int64_t factor) {
  FV_CHECK(map.dim() == 4, op, "expected ", what, " of shape [N, C, H, W], got ", shape_of(map));
  check_floating(op, what, map);
  FV_CHECK(factor >= 1, op, "expected a factor of at least 1, got ", factor);
}

inline Params forward_params(const char* op, const Tensor& input, int64_t factor) {
  check_map(op, "an input", input, factor);
  return {input.size(0), input.size(1), input.size(2), input.size(3), factor};
}

inline Params backward_params(const char* op, const Tensor& grad, int64_t factor) {
  check_map(op, "grad", grad, factor);
  FV_CHECK(grad.size(2) % factor == 0 && grad.size(3) % factor == 0, op, "expected grad with sides divisible by ",
           factor, ", got ", shape_of(grad));
  return {grad.size(0), grad.size(1), grad.size(2) / factor, grad.size(3) / factor, factor};
}

}  // namespace fastvision::nearest_upsample
