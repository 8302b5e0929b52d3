// Memory of large CPU tensors, used again.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "common/free_blocks.h"

namespace fastvision {

#ifdef __linux__

inline torch::stable::Tensor tensor_in(const Block& block, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                                       torch::headeronly::IntHeaderOnlyArrayRef strides,
                                       const torch::stable::Device& device, torch::headeronly::ScalarType dtype) {
  return torch::stable::from_blob(block.data, sizes, strides, device, dtype, [block](void*) { give_back(block); });
}

// For a fresh CPU tensor that is about to be written whole: puts a large one where an earlier one was. The C library
// keeps none from 32 MiB on, and smaller ones only until the end of its heap falls free: 8 MB maps between calls of
// other ops came with a hundred page faults each, a sixth of what writing them takes.
inline void reuse_memory(torch::stable::Tensor& t) {
  const size_t bytes = size_t(t.numel()) * size_t(t.element_size());
  if (bytes >= kLarge && bytes <= FreeBlocks::kMost) {
    if (const Block block = used_or_fresh_block(bytes); block.data) {
      t = tensor_in(block, t.sizes(), t.strides(), t.device(), t.scalar_type());
      return;
    }
  }
  advise_huge_pages(t.mutable_data_ptr(), bytes);
}

#else

inline void reuse_memory(torch::stable::Tensor&) {}

#endif

}  // namespace fastvision
