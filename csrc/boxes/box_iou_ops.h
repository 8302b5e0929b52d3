// The two box_iou ops, written once: `Pairs` says how pairs are iterated (threads of a pool, or of a grid).
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "boxes/box_iou.h"
#include "common/dispatch.h"

namespace fastvision::box_iou {

// `boxes` [n], each of which meets all `others` [m]; grad of pair (i, j) at grad[i * row + j * column].
template <class T>
struct Side {
  const Box<T>* boxes;
  int64_t n;
  const Box<T>* others;
  int64_t m;
  const T* grad;
  int64_t row, column;

  // The sum over j of start, start + step, ...
  FV_HOST_DEVICE Box<T> gradient(int64_t i, int64_t start, int64_t step) const {
    const Box<T> a = boxes[i];
    const T area = box_area(a);
    Box<T> sum{0, 0, 0, 0};
    for (int64_t j = start; j < m; j += step) {
      add_gradient(a, others[j], area, box_area(others[j]), grad[i * row + j * column], sum);
    }
    return sum;
  }
};

template <class T>
const Box<T>* boxes_of(const Tensor& plain) {
  return reinterpret_cast<const Box<T>*>(plain.const_data_ptr<T>());
}

template <class Pairs>
Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  validate("box_iou", boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type);
  Tensor result = torch::stable::new_empty(a, {a.size(0), b.size(0)}, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    Pairs::forward(a, boxes_of<T>(a), a.size(0), boxes_of<T>(b), b.size(0), result.mutable_data_ptr<T>());
  });
  return result;
}

template <class Pairs>
std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  validate_grad("box_iou_backward", grad, boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type), g = contiguous_as(grad, type);
  const int64_t n = a.size(0), m = b.size(0);
  Tensor grad1 = torch::stable::new_empty(a, {n, 4}), grad2 = torch::stable::new_empty(b, {m, 4});
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* pairs = g.const_data_ptr<T>();
    const auto out = [](const Tensor& side) { return reinterpret_cast<Box<T>*>(side.mutable_data_ptr<T>()); };
    Pairs::backward(a, Side<T>{boxes_of<T>(a), n, boxes_of<T>(b), m, pairs, m, 1}, out(grad1));
    Pairs::backward(b, Side<T>{boxes_of<T>(b), m, boxes_of<T>(a), n, pairs, 1, m}, out(grad2));
  });
  return {torch::stable::to(grad1, boxes1.scalar_type()), torch::stable::to(grad2, boxes2.scalar_type())};
}

template <class Pairs>
void register_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("box_iou", TORCH_BOX(&box_iou<Pairs>));
  m.impl("box_iou_backward", TORCH_BOX(&box_iou_backward<Pairs>));
}

}  // namespace fastvision::box_iou
