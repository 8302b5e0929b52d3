// What follows a convolution or a normalisation, fused into its last pass.
#pragma once

#include <string>

#include "common/checks.h"
#include "common/host_device.h"

namespace fastvision {

// max(x, slope * x): slope 1 is no activation, 0 is ReLU. NaN stays NaN.
template <class T>
struct Activation {
  T slope;

  FV_HOST_DEVICE T operator()(T x) const {
    const T scaled = slope * x,
            below = slope == 0 ? T(0) : scaled;  // not 0 * infinity; no branch, so that loops vectorise
    return x < 0 ? below : x;
  }
};

// "none", "relu" or "leaky_relu" -> the slope below zero
inline double activation_slope(const char* op, const std::string& name, double negative_slope) {
  if (name == "none") return 1;
  if (name == "relu") return 0;
  FV_CHECK(name == "leaky_relu", op, "expected activation \"none\", \"relu\" or \"leaky_relu\", got \"", name, '"');
  return negative_slope;
}

}  // namespace fastvision
