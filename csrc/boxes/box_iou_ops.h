// The two box_iou ops, written once: `Pairs` says how pairs are iterated (threads of a pool, or of a grid).
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "boxes/box_iou.h"
#include "common/boxes_of.h"
#include "common/dispatch.h"

namespace fastvision::box_iou {

// Boxes [n] and [m], all pairs of them, or the i-th with the i-th.
template <class T>
struct Sides {
  const Box<T>* first;
  int64_t n;
  const Box<T>* second;
  int64_t m;
  Slack<T> slack;
};

template <class T>
Sides<T> sides_of(const Tensor& a, const Tensor& b, double eps, double union_eps) {
  return {boxes_of<T>(a), a.size(0), boxes_of<T>(b), b.size(0), {T(union_eps), T(eps)}};
}

template <class Pairs>
Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2, std::string kind, double eps, double union_eps,
               bool elementwise) {
  constexpr const char* kOp = "box_iou";
  validate(kOp, boxes1, boxes2, elementwise);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type);
  Tensor result = elementwise ? empty_vector(a, a.size(0), type) : empty_tensor(a, {a.size(0), b.size(0)}, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const Sides<T> sides = sides_of<T>(a, b, eps, union_eps);
    dispatch_kind(kOp, kind, [&](auto k) {
      constexpr Kind kKind = decltype(k)::value;
      T* out = result.mutable_data_ptr<T>();
      elementwise ? Pairs::template rows<kKind>(a, sides, out) : Pairs::template forward<kKind>(a, sides, out);
    });
  });
  return result;
}

template <class Pairs>
std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                            std::string kind, double eps, double union_eps, bool elementwise) {
  constexpr const char* kOp = "box_iou_backward";
  validate_grad(kOp, grad, boxes1, boxes2, elementwise);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type), g = contiguous_as(grad, type);
  Tensor grad1 = empty_tensor(a, {a.size(0), 4}), grad2 = empty_tensor(b, {b.size(0), 4});
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const auto out = [](const Tensor& side) { return reinterpret_cast<Box<T>*>(side.mutable_data_ptr<T>()); };
    const Sides<T> sides = sides_of<T>(a, b, eps, union_eps);
    const T* pairs = g.const_data_ptr<T>();
    dispatch_kind(kOp, kind, [&](auto k) {
      constexpr Kind kKind = decltype(k)::value;
      elementwise ? Pairs::template rows_backward<kKind>(a, sides, pairs, out(grad1), out(grad2))
                  : Pairs::template backward<kKind>(a, sides, pairs, out(grad1), out(grad2));
    });
  });
  return {as_type(grad1, boxes1.scalar_type()), as_type(grad2, boxes2.scalar_type())};
}

template <class Pairs>
void register_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("box_iou", TORCH_BOX(&box_iou<Pairs>));
  m.impl("box_iou_backward", TORCH_BOX(&box_iou_backward<Pairs>));
}

}  // namespace fastvision::box_iou
