// Cosine and sine of degrees, exact at quarter turns.
#pragma once

#include <cmath>

#include "common/host_device.h"

namespace fastvision {

FV_HOST_DEVICE double cosine_of(double degrees) {
  const double turned = std::fabs(std::fmod(degrees, 360.0));
  if (turned == 90 || turned == 270) return 0;
  return std::cos(turned * 0.017453292519943295);  // pi / 180
}
FV_HOST_DEVICE double sine_of(double degrees) { return cosine_of(degrees - 90); }

}  // namespace fastvision
