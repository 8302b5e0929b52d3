// Rotated boxes side by side, as the host's vector loops take them.
#pragma once

#include "common/rotated_box.h"
#include "common/simd.h"

namespace fastvision {

struct RotatedLanes {
  static constexpr int kLanes = kVectorLanes<double>;
  double x[kLanes]{}, y[kLanes]{}, half_width[kLanes]{}, half_height[kLanes]{}, cosine[kLanes]{}, sine[kLanes]{},
      area[kLanes]{}, radius[kLanes]{};

  [[gnu::always_inline]] void set(int l, const RotatedBox& b) {
    x[l] = b.x, y[l] = b.y, half_width[l] = b.half_width, half_height[l] = b.half_height;
    cosine[l] = b.cosine, sine[l] = b.sine, area[l] = b.area, radius[l] = b.radius;
  }
  [[gnu::always_inline]] RotatedBox at(int l) const {
    return {x[l], y[l], half_width[l], half_height[l], cosine[l], sine[l], area[l], radius[l]};
  }
};

}  // namespace fastvision
