// A contiguous tensor [N, 4] as boxes.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "common/box.h"

namespace fastvision {

template <class T>
const Box<T>* boxes_of(const torch::stable::Tensor& plain) {
  return reinterpret_cast<const Box<T>*>(plain.const_data_ptr<T>());
}

}  // namespace fastvision
