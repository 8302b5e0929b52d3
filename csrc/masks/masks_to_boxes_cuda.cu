// masks_to_boxes on CUDA: one block a mask.
#include "common/cuda_library.cuh"
#include "masks/masks_to_boxes.h"

namespace fastvision::masks_to_boxes {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    find_box(const uint8_t* masks, int64_t height, int64_t width, float* boxes) {
  FV_SHARED(int, edge, [4]);  // left, top, right, bottom
  const int t = threadIdx.x;
  const uint8_t* mask = masks + int64_t(blockIdx.x) * height * width;
  if (t < 4) edge[t] = t < 2 ? INT32_MAX : -1;
  __syncthreads();
  int left = INT32_MAX, top = INT32_MAX, right = -1, bottom = -1;
  for (int64_t i = t; i < height * width; i += kThreads) {
    if (!mask[i]) continue;
    const int x = int(i % width), y = int(i / width);
    left = minimum(left, x), right = maximum(right, x), top = minimum(top, y), bottom = maximum(bottom, y);
  }
  if (right >= 0) {
    atomicMin(&edge[0], left), atomicMin(&edge[1], top);
    atomicMax(&edge[2], right), atomicMax(&edge[3], bottom);
  }
  __syncthreads();
  if (t < 4) boxes[4 * int64_t(blockIdx.x) + t] = edge[2] < 0 ? 0.0f : float(edge[t]);
}

Tensor masks_to_boxes(const Tensor& masks) {
  validate(masks);
  const Tensor plain = masks.is_contiguous() ? masks : torch::stable::contiguous(masks);
  Tensor boxes = torch::stable::new_empty(plain, {plain.size(0), 4}, ScalarType::Float);
  launch(kOp, &find_box, {blocks_for(plain.size(0), 1), kThreads}, plain,
         static_cast<const uint8_t*>(plain.const_data_ptr()), plain.size(1), plain.size(2),
         boxes.mutable_data_ptr<float>());
  return boxes;
}

}  // namespace
}  // namespace fastvision::masks_to_boxes

FV_CUDA_LIBRARY(m) { m.impl("masks_to_boxes", TORCH_BOX(&fastvision::masks_to_boxes::masks_to_boxes)); }
