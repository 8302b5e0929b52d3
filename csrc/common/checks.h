// Argument checks whose text says op, expectation and actual value.
//
// torch's Python bindings turn std::invalid_argument into ValueError and std::out_of_range into IndexError, so plain
// standard exceptions are all that is needed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <stdexcept>
#include <string>

#include "common/new_tensor.h"

namespace fastvision {

template <class Error, class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream text;
  text << op << ": ";
  (text << ... << parts);
  throw Error(text.str());
}

#define FV_CHECK(condition, op, ...)                                              \
  do {                                                                            \
    if (!(condition)) ::fastvision::fail<std::invalid_argument>(op, __VA_ARGS__); \
  } while (0)

// "[2, 3]": the first `dims` sizes
inline std::string shape_of(const Tensor& tensor, int64_t dims) {
  std::ostringstream text;
  text << '[';
  for (int64_t d = 0; d < dims; ++d) text << (d ? ", " : "") << tensor.size(d);
  text << ']';
  return text.str();
}

inline std::string shape_of(const Tensor& tensor) { return shape_of(tensor, tensor.dim()); }

// Whether the first `dims` sizes are the same; both have as many.
inline bool same_sizes(const Tensor& a, const Tensor& b, size_t dims) {
  return std::equal(a.sizes().begin(), a.sizes().begin() + static_cast<std::ptrdiff_t>(dims), b.sizes().begin());
}

inline bool same_shape(const Tensor& a, const Tensor& b) {
  const auto dims = static_cast<size_t>(a.dim());
  return dims == static_cast<size_t>(b.dim()) && same_sizes(a, b, dims);
}

// `name` has shape [N, columns].
inline void check_matrix(const char* op, const char* name, const Tensor& tensor, int64_t columns) {
  FV_CHECK(tensor.dim() == 2 && tensor.size(1) == columns, op, "expected ", name, " of shape [N, ", columns, "], got ",
           shape_of(tensor));
}

// Same device type and index as `other`.
inline void check_same_device(const char* op, const char* name, const Tensor& tensor, const char* other_name,
                              const Tensor& other) {
  FV_CHECK(tensor.is_cuda() == other.is_cuda() && tensor.get_device_index() == other.get_device_index(), op,
           "expected ", name, " and ", other_name, " on the same device");
}

inline bool is_floating(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

inline bool is_integer(ScalarType type) {
  return type == ScalarType::Long || type == ScalarType::Int || type == ScalarType::Short || type == ScalarType::Char ||
         type == ScalarType::Byte || type == ScalarType::UInt16 || type == ScalarType::UInt32 ||
         type == ScalarType::UInt64 || type == ScalarType::Bool;
}

// Floating or integer: what boxes may be stored as.
inline void check_real(const char* op, const char* name, const Tensor& tensor) {
  FV_CHECK(is_floating(tensor.scalar_type()) || is_integer(tensor.scalar_type()), op, "expected ", name,
           " of a real dtype");
}

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  FV_CHECK(is_floating(tensor.scalar_type()), op, "expected ", name, " of dtype float32, float64, float16 or bfloat16");
}

// Geometry (boxes, rois, anchors) is computed in float64 if stored so, and in float32 for every other dtype.
inline ScalarType geometry_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// float64 if either tensor is, float32 otherwise.
inline ScalarType geometry_type(const Tensor& a, const Tensor& b) {
  const bool wide = a.scalar_type() == ScalarType::Double || b.scalar_type() == ScalarType::Double;
  return wide ? ScalarType::Double : ScalarType::Float;
}

// Integer boxes are read as float32 and give float32.
inline ScalarType stored_type(const Tensor& tensor) {
  return is_floating(tensor.scalar_type()) ? tensor.scalar_type() : ScalarType::Float;
}

// `tensor` as contiguous values of `type`; no copy where it is so already.
inline Tensor contiguous_as(const Tensor& tensor, ScalarType type) {
  const Tensor typed = as_type(tensor, type);
  return typed.is_contiguous() ? typed : torch::stable::contiguous(typed);
}

}  // namespace fastvision
