// masks_to_boxes on the CPU: masks over threads; rows are merged into one until the first and last set row and column
// are known.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <vector>

#include "common/parallel.h"
#include "common/simd.h"
#include "masks/masks_to_boxes.h"

namespace fastvision::masks_to_boxes {
namespace {

// merged [W]: the bits of all rows together
[[gnu::always_inline]] inline Box<float> box_of(const uint8_t* mask, int64_t height, int64_t width, uint8_t* merged) {
  int64_t top = -1, bottom = -1;
  for (int64_t x = 0; x < width; ++x) merged[x] = 0;
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = mask + y * width;
    uint8_t any = 0;
    for (int64_t x = 0; x < width; ++x) any |= row[x];
    if (!any) continue;
    top = top < 0 ? y : top, bottom = y;
    for (int64_t x = 0; x < width; ++x) merged[x] |= row[x];
  }
  if (top < 0) return {0, 0, 0, 0};
  int64_t left = 0, right = width - 1;
  while (!merged[left]) ++left;
  while (!merged[right]) --right;
  return {float(left), float(top), float(right), float(bottom)};
}

Tensor masks_to_boxes(const Tensor& masks) {
  validate(masks);
  const Tensor plain = masks.is_contiguous() ? masks : torch::stable::contiguous(masks);
  const int64_t n = plain.size(0), height = plain.size(1), width = plain.size(2);
  Tensor boxes = empty_tensor(plain, {n, 4}, ScalarType::Float);
  const uint8_t* data = static_cast<const uint8_t*>(plain.const_data_ptr());
  float* out = boxes.mutable_data_ptr<float>();
  parallel_workers(n, [&](const auto& next) {
    std::vector<uint8_t> merged(width);
    for (int64_t i = next(); i < n; i = next()) {
      Box<float> box{};
      vectorized([&]() __attribute__((always_inline)) {
        box = box_of(data + i * height * width, height, width, merged.data());
      });
      out[4 * i] = box.x1, out[4 * i + 1] = box.y1, out[4 * i + 2] = box.x2, out[4 * i + 3] = box.y2;
    }
  });
  return boxes;
}

}  // namespace
}  // namespace fastvision::masks_to_boxes

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("masks_to_boxes", TORCH_BOX(&fastvision::masks_to_boxes::masks_to_boxes));
}
