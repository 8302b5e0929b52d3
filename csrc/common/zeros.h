// A tensor of zeros that is mostly left alone.
//
// Fresh pages come from the kernel as zeros: clearing them a second time is half the cost of a large, nearly empty
// output, and a page that nothing is written to costs nothing at all.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/memory.h"

namespace fastvision {

// [sizes], contiguous, on the CPU.
inline torch::stable::Tensor sparse_zeros(const torch::stable::Tensor& like, std::vector<int64_t> sizes,
                                          torch::headeronly::ScalarType dtype, int64_t element_size) {
#ifdef __linux__
  int64_t bytes = element_size;
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 0; bytes *= sizes[d]) strides[d] = bytes / element_size;
  if (bytes >= int64_t(kHugePage)) {
    void* data = mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data != MAP_FAILED) {
      advise_huge_pages(data, size_t(bytes));
      const auto unmap = [bytes](void* pointer) { munmap(pointer, size_t(bytes)); };
      return torch::stable::from_blob(data, sizes, strides, like.device(), dtype, unmap);
    }
  }
#endif
  torch::stable::Tensor zeros = torch::stable::new_empty(like, sizes, dtype);
  torch::stable::zero_(zeros);
  return zeros;
}

}  // namespace fastvision
