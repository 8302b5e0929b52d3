// What follows a convolution or a normalisation, fused into its last pass: z where z > 0, slope * z elsewhere, so that
// slope 1 is no activation and 0 is ReLU.
#pragma once

#include "common/host_device.h"

namespace fastvision {

// value where z > 0, slope * value elsewhere: y for value z, g' for value g. NaN stays, and ReLU of -inf is 0.
// V: T, or several side by side.
template <class V, class T>
FV_HOST_DEVICE_ALWAYS V activated(V z, V value, T slope) {
  const V below = slope == 0 ? V{} : slope * value;
  return z <= T(0) ? below : value;
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

}  // namespace fastvision
