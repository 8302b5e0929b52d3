// The smallest boxes that hold the set pixels of masks: corners are the first and last set column and row.
#pragma once

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::masks_to_boxes {

constexpr const char* kOp = "masks_to_boxes";

// masks [N, H, W] of bytes, 0 or not
inline void validate(const Tensor& masks) {
  FV_CHECK(masks.dim() == 3, kOp, "expected masks of shape [N, H, W], got ", shape_of(masks));
  FV_CHECK(masks.scalar_type() == ScalarType::Bool || masks.scalar_type() == ScalarType::Byte, kOp,
           "expected masks of dtype bool");
}

}  // namespace fastvision::masks_to_boxes
