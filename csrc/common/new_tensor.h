// Tensors made, cleared and converted by the shortest ways torch's stable interface has: functions of its C shim, and
// nothing at all where nothing is to be done. torch::stable's own new_empty, zero_ and to find their op by its name
// each time, which takes 1 to 5 us.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>

#include "common/free_blocks.h"

namespace fastvision {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Tensor tensor_in(const Block& block, IntHeaderOnlyArrayRef sizes, IntHeaderOnlyArrayRef strides,
                        const torch::stable::Device& device, ScalarType dtype) {
  return torch::stable::from_blob(block.data, sizes, strides, device, dtype, [block](void*) { give_back(block); });
}

// Uninitialised, without gaps, of the dtype of `like`, if no other is given, and on its device. On the CPU a large one
// lies where an earlier one was.
inline Tensor empty_strided(const Tensor& like, int64_t dims, const int64_t* sizes, const int64_t* strides,
                            std::optional<ScalarType> type = std::nullopt) {
  int32_t device = 0, index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  const ScalarType dtype = type.value_or(like.scalar_type());
  double bytes = 0;  // of a CPU tensor; too many do not overflow
  if (device == aoti_torch_device_type_cpu()) {
    bytes = double(aoti_torch_dtype_element_size(static_cast<int32_t>(dtype)));
    for (int64_t d = 0; d < dims; ++d) bytes *= double(sizes[d]);
  }
  if (bytes >= double(kLarge) && bytes <= double(kMostKept)) {
    if (const Block block = used_or_fresh_block(size_t(bytes)); block.data) {
      return tensor_in(block, {sizes, size_t(dims)}, {strides, size_t(dims)}, like.device(), dtype);
    }
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, static_cast<int32_t>(dtype), device, index, &handle));
  Tensor fresh(handle);
  if (bytes > double(kMostKept)) advise_huge_pages(fresh.mutable_data_ptr(), size_t(bytes));
  return fresh;
}

// The same, contiguous.
inline Tensor empty_tensor(const Tensor& like, IntHeaderOnlyArrayRef sizes,
                           std::optional<ScalarType> type = std::nullopt) {
  constexpr size_t kMostDims = 8;
  int64_t strides[kMostDims], step = 1;
  if (sizes.size() > kMostDims) return torch::stable::new_empty(like, sizes, type);
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = step;
    if (d > 0 && sizes[d] > 0) step *= sizes[d];
  }
  return empty_strided(like, static_cast<int64_t>(sizes.size()), sizes.data(), strides, type);
}

inline Tensor empty_tensor(const Tensor& like, std::initializer_list<int64_t> sizes,
                           std::optional<ScalarType> type = std::nullopt) {
  return empty_tensor(like, IntHeaderOnlyArrayRef(sizes.begin(), sizes.size()), type);
}

inline Tensor empty_vector(const Tensor& like, int64_t count, std::optional<ScalarType> type = std::nullopt) {
  return empty_tensor(like, {count}, type);
}

inline Tensor clear_tensor(const Tensor& tensor) {
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(tensor.get()));
  return tensor;
}

inline Tensor as_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

}  // namespace fastvision
