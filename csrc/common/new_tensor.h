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

namespace fastvision {

using torch::headeronly::IntHeaderOnlyArrayRef;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Uninitialised, of the dtype of `like`, if no other is given, and on its device.
inline Tensor empty_strided(const Tensor& like, int64_t dims, const int64_t* sizes, const int64_t* strides,
                            std::optional<ScalarType> type = std::nullopt) {
  int32_t device = 0, index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      dims, sizes, strides, static_cast<int32_t>(type.value_or(like.scalar_type())), device, index, &handle));
  return Tensor(handle);
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
