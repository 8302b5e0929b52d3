// From a runtime dtype to a compile-time type.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "common/checks.h"

namespace fastvision {

using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;

// The type sums are kept in: double for double, float for everything else.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<T>{}) with the storage type of `type`.
template <class F>
auto dispatch_floating(const char* op, ScalarType type, F f) {
  switch (type) {
    case ScalarType::Float: return f(Type<float>{});
    case ScalarType::Double: return f(Type<double>{});
    case ScalarType::Half: return f(Type<Half>{});
    case ScalarType::BFloat16: return f(Type<BFloat16>{});
    default: fail<std::invalid_argument>(op, "expected a floating-point dtype");
  }
}

// Calls f(Type<word>{}) with an unsigned integer of the size of an element, for numbers that are moved and not computed
// with.
template <class F>
void dispatch_words(const Tensor& tensor, F f) {
  switch (tensor.element_size()) {
    case 2: return f(Type<uint16_t>{});
    case 4: return f(Type<uint32_t>{});
    default: return f(Type<uint64_t>{});
  }
}

// Calls f(Type<double>{}) for float64 and f(Type<float>{}) for everything else.
template <class F>
auto dispatch_geometry(ScalarType type, F f) {
  return type == ScalarType::Double ? f(Type<double>{}) : f(Type<float>{});
}

}  // namespace fastvision
