// Max unpooling (Zeiler and Fergus 2014, section 2.1): parameters and checks.
//
// Values are moved, never computed with, so the kernels see words of two, four or eight bytes.
#pragma once

#include "common/dispatch.h"
#include "common/host_device.h"
#include "common/layout.h"

namespace fastvision::max_unpool2d {

// Input and indices [batch, channels, height, width] -> output [batch, channels, out_height, out_width].
//
// Each input has a cell of the output to itself, cell_height x cell_width pixels. Windows that do not overlap point
// into their own cells, and then no two inputs can meet.
struct Params {
  int64_t batch, channels, height, width;
  int64_t out_height, out_width;
  int64_t cell_height, cell_width;  // zero: there are no cells

  FV_HOST_DEVICE int64_t pixels() const { return out_height * out_width; }
  FV_HOST_DEVICE int64_t first_of_cell(int64_t i, int64_t j) const {
    return i * cell_height * out_width + j * cell_width;
  }
  FV_HOST_DEVICE bool in_cell(int64_t place, int64_t i, int64_t j) const {
    uint64_t along = uint64_t(place) - uint64_t(first_of_cell(i, j));
    for (int64_t r = 0; r < cell_height; ++r, along -= uint64_t(out_width)) {
      if (along < uint64_t(cell_width)) return true;
    }
    return false;
  }
  FV_HOST_DEVICE bool is_pixel(int64_t place) const { return uint64_t(place) < uint64_t(pixels()); }
};

inline Params make_params(const char* op, const Tensor& indices, int64_t out_height, int64_t out_width) {
  const int64_t height = indices.size(2), width = indices.size(3);
  FV_CHECK(indices.scalar_type() == ScalarType::Long || indices.scalar_type() == ScalarType::Int, op,
           "expected indices of dtype int64 or int32");
  FV_CHECK(out_height >= 0 && out_width >= 0, op, "expected an output size >= 0, got [", out_height, ", ", out_width,
           "]");
  FV_CHECK(height * width < INT32_MAX, op, "expected an input plane of fewer than ", INT32_MAX, " pixels, got ",
           shape_of(indices));
  const bool cells = height > 0 && width > 0;
  return {indices.size(0),
          indices.size(1),
          height,
          width,
          out_height,
          out_width,
          cells ? out_height / height : 0,
          cells ? out_width / width : 0};
}

inline Params forward_params(const char* op, const Tensor& input, const Tensor& indices, int64_t out_height,
                             int64_t out_width) {
  FV_CHECK(input.dim() == 4, op, "expected an input of shape [N, C, H, W], got ", shape_of(input));
  check_floating(op, "the input", input);
  FV_CHECK(same_shape(indices, input), op, "expected indices of the shape of the input, ", shape_of(input), ", got ",
           shape_of(indices));
  check_same_device(op, "indices", indices, "the input", input);
  return make_params(op, indices, out_height, out_width);
}

// grad [batch, channels, out_height, out_width]
inline Params backward_params(const char* op, const Tensor& grad, const Tensor& indices) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [N, C, H, W], got ", shape_of(grad));
  check_floating(op, "grad", grad);
  FV_CHECK(indices.dim() == 4 && same_sizes(indices, grad, 2), op,
           "expected indices with the batch and channels of grad, ", shape_of(grad), ", got ", shape_of(indices));
  check_same_device(op, "indices", indices, "grad", grad);
  return make_params(op, indices, grad.size(2), grad.size(3));
}

inline Tensor as_int64(const Tensor& indices) { return as_type(indices, ScalarType::Long); }

// As a tensor in which pixel k of a plane is k steps from the first; no copy of one that is contiguous either way.
inline Tensor with_flat_planes(const Tensor& map) {
  if (map.size(2) <= 1 || map.stride(2) == map.size(3) * map.stride(3)) return map;
  // a column of pixels counts as contiguous whatever the stride of its one column says: only a copy is sure
  return torch::stable::reshape(torch::stable::contiguous(map),
                                {map.size(0), map.size(1), 1, map.size(2) * map.size(3)});
}

// The first element of a tensor and its strides.
template <class T>
struct Map {
  T* data;
  Strides step;

  FV_HOST_DEVICE T* at(int64_t n, int64_t c) const { return data + n * step.n + c * step.c; }
};

template <class T>
Map<const T> read(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), strides_of(tensor)};
}

template <class T>
Map<T> write(Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), strides_of(tensor)};
}

}  // namespace fastvision::max_unpool2d
