// What follows a convolution or a normalisation, fused into its last pass: z where z > 0, slope * z elsewhere, so that
// slope 1 is no activation and 0 is ReLU.
#pragma once

#include <string>

#include "common/checks.h"
#include "common/host_device.h"

namespace fastvision {

// value where z > 0, slope * value elsewhere: y for value z, g' for value g. NaN stays, and ReLU of -inf is 0.
template <class T>
FV_HOST_DEVICE T activated(T z, T value, T slope) {
  const T below = slope == 0 ? T(0) : slope * value;
  return z <= 0 ? below : value;
}

template <class T>
FV_HOST_DEVICE T relu(T z) {
  return activated(z, z, T(0));
}

template <class T>
struct Activation {
  T slope;

  FV_HOST_DEVICE T operator()(T z) const { return activated(z, z, slope); }
};

// "none", "relu" or "leaky_relu" -> the slope below zero
inline double activation_slope(const char* op, const std::string& name, double negative_slope) {
  if (name == "none") return 1;
  if (name == "relu") return 0;
  FV_CHECK(name == "leaky_relu", op, "expected activation \"none\", \"relu\" or \"leaky_relu\", got \"", name, '"');
  return negative_slope;
}

}  // namespace fastvision
