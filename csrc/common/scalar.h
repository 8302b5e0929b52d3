// Scalar helpers with one spelling on host and device.
#pragma once

#include <limits>

#include "common/host_device.h"

namespace fastvision {

// For device code too, which may not call numeric_limits.
template <class T>
inline constexpr T kEpsilon = std::numeric_limits<T>::epsilon();

// Of two numbers, the second where the first is NaN.
template <class T>
FV_HOST_DEVICE T maximum(T a, T b) {
  return a > b ? a : b;
}

template <class T>
FV_HOST_DEVICE T minimum(T a, T b) {
  return a < b ? a : b;
}

}  // namespace fastvision
