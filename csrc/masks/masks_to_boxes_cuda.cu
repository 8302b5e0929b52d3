// masks_to_boxes on CUDA: blocks look for the edges in 32 KB of a mask each, 16 bytes a thread at a time; then a block
// a mask merges what they found.
#include "common/cuda_library.cuh"
#include "common/layout.h"
#include "common/pack.h"
#include "masks/masks_to_boxes.h"

namespace fastvision::masks_to_boxes {
namespace {

constexpr int kThreads = 256, kMergers = 32;
constexpr int kBytes = 16;             // read at once
constexpr int64_t kChunk = 32 * 1024;  // bytes of a block

// First and last column and row of what was seen.
struct Edges {
  int left, top, right, bottom;

  static FV_DEVICE Edges none() { return {INT32_MAX, INT32_MAX, -1, -1}; }

  FV_DEVICE void see(int x, int y) { see(Edges{x, y, x, y}); }
  FV_DEVICE void see(const Edges& e) {
    left = minimum(left, e.left), right = maximum(right, e.right);
    top = minimum(top, e.top), bottom = maximum(bottom, e.bottom);
  }
  // What all threads of a block saw.
  FV_DEVICE Edges of_block() const {
    FV_SHARED(Edges, all, [1]);
    if (threadIdx.x == 0) all[0] = none();
    __syncthreads();
    if (right >= 0) {
      atomicMin(&all[0].left, left), atomicMin(&all[0].top, top);
      atomicMax(&all[0].right, right), atomicMax(&all[0].bottom, bottom);
    }
    __syncthreads();
    return all[0];
  }
};

using Word = Pack<uint32_t, kBytes / 4>;

// masks: aligned, the first of them `into` bytes further; partial [N, chunks]
__global__ void __launch_bounds__(kThreads) find_edges(const uint8_t* __restrict__ masks, int64_t into, int64_t height,
                                                       int64_t width, int64_t chunks, Edges* partial) {
  const int64_t mask = blockIdx.x / chunks, size = height * width, plane = into + mask * size;
  // chunks begin where memory is aligned, so the first of a mask has bytes of the one before it, and the last of the
  // next
  const int64_t begin = plane / kBytes * kBytes + blockIdx.x % chunks * kChunk,
                end = minimum(begin + kChunk, plane + size);
  Edges edges = Edges::none();
#pragma unroll 4
  for (int64_t at = begin + threadIdx.x * kBytes; at < end; at += kThreads * kBytes) {
    const bool whole = at >= plane && at + kBytes <= plane + size;
    if (whole) {
      const Word word = *reinterpret_cast<const Word*>(masks + at);
      if ((word.of[0] | word.of[1] | word.of[2] | word.of[3]) == 0) continue;
    }
    const int first = int(maximum(plane - at, int64_t(0))), last = int(minimum(plane + size - at, int64_t(kBytes)));
    const int64_t start = at + first - plane;
    int y = int(start / width), x = int(start % width);
    for (int i = first; i < last; ++i) {
      if (masks[at + i]) edges.see(x, y);
      if (++x == width) x = 0, ++y;
    }
  }
  const Edges all = edges.of_block();
  if (threadIdx.x == 0) partial[blockIdx.x] = all;
}

// boxes [N, 4]
__global__ void __launch_bounds__(kMergers) merge(const Edges* partial, int64_t chunks, float* boxes) {
  Edges edges = Edges::none();
  for (int64_t c = threadIdx.x; c < chunks; c += kMergers) edges.see(partial[blockIdx.x * chunks + c]);
  const Edges all = edges.of_block();
  if (threadIdx.x > 0) return;
  float* box = boxes + 4 * int64_t(blockIdx.x);
  const bool any = all.right >= 0;
  box[0] = any ? float(all.left) : 0.0f, box[1] = any ? float(all.top) : 0.0f;
  box[2] = any ? float(all.right) : 0.0f, box[3] = any ? float(all.bottom) : 0.0f;
}

Tensor masks_to_boxes(const Tensor& masks) {
  validate(masks);
  const Tensor plain = masks.is_contiguous() ? masks : torch::stable::contiguous(masks);
  const int64_t count = plain.size(0), height = plain.size(1), width = plain.size(2);
  Tensor boxes = empty_tensor(plain, {count, 4}, ScalarType::Float);
  if (count == 0) return boxes;
  const auto* data = static_cast<const uint8_t*>(plain.const_data_ptr());
  const int64_t into = reinterpret_cast<uintptr_t>(data) % kBytes;
  const int64_t chunks = ceil_div(height * width + kBytes, kChunk);
  const Tensor partial = empty_vector(plain, count * chunks * int64_t(sizeof(Edges) / sizeof(int)), ScalarType::Int);
  auto* edges = reinterpret_cast<Edges*>(partial.mutable_data_ptr<int32_t>());
  launch(kOp, &find_edges, {blocks_for(count * chunks, 1), kThreads}, plain, data - into, into, height, width, chunks,
         edges);
  launch(kOp, &merge, {blocks_for(count, 1), kMergers}, plain, edges, chunks, boxes.mutable_data_ptr<float>());
  return boxes;
}

}  // namespace
}  // namespace fastvision::masks_to_boxes

FV_CUDA_LIBRARY(m) { m.impl("masks_to_boxes", TORCH_BOX(&fastvision::masks_to_boxes::masks_to_boxes)); }
