// box_iou on the CPU: rows over threads, boxes2 as structure of arrays so that a row vectorises.
#include "boxes/box_iou.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/simd.h"

namespace fastvision::box_iou {
namespace {

template <class T>
void forward(const Box<T>* boxes1, int64_t n, const Box<T>* boxes2, int64_t m, T* out) {
  std::vector<T> columns(5 * m);
  T *x1 = columns.data(), *y1 = x1 + m, *x2 = y1 + m, *y2 = x2 + m, *area = y2 + m;
  for (int64_t j = 0; j < m; ++j) {
    x1[j] = boxes2[j].x1, y1[j] = boxes2[j].y1, x2[j] = boxes2[j].x2, y2[j] = boxes2[j].y2;
    area[j] = box_area(boxes2[j]);
  }
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(m, 1));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    vectorized([&]() __attribute__((always_inline)) {
      for (int64_t i = begin; i < end; ++i) {
        const Box<T> a = boxes1[i];
        const T area_a = box_area(a);
        T* row = out + i * m;
#pragma GCC ivdep
        for (int64_t j = 0; j < m; ++j) row[j] = iou(a, Box<T>{x1[j], y1[j], x2[j], y2[j]}, area_a, area[j]);
      }
    });
  });
}

// Gradient for `boxes` [n], each against all `others` [m]; grad of pair (i, j) at i * row + j * column.
template <class T>
void backward_side(const Box<T>* boxes, int64_t n, const Box<T>* others, int64_t m, const T* grad, int64_t row,
                   int64_t column, Box<T>* out) {
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(m, 1));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Box<T> a = boxes[i];
      const T area = box_area(a);
      Box<T> sum{0, 0, 0, 0};
      for (int64_t j = 0; j < m; ++j) {
        add_gradient(a, others[j], area, box_area(others[j]), grad[i * row + j * column], sum);
      }
      out[i] = sum;
    }
  });
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  validate("box_iou", boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type);
  Tensor result = torch::stable::new_empty(a, {a.size(0), b.size(0)}, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    forward(boxes_of<T>(a), a.size(0), boxes_of<T>(b), b.size(0), result.mutable_data_ptr<T>());
  });
  return result;
}

std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  validate_grad("box_iou_backward", grad, boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type), g = contiguous_as(grad, type);
  const int64_t n = a.size(0), m = b.size(0);
  Tensor grad1 = torch::stable::new_empty(a, {n, 4}), grad2 = torch::stable::new_empty(b, {m, 4});
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* pairs = g.const_data_ptr<T>();
    const auto side = [](const Tensor& out) { return reinterpret_cast<Box<T>*>(out.mutable_data_ptr<T>()); };
    backward_side(boxes_of<T>(a), n, boxes_of<T>(b), m, pairs, m, 1, side(grad1));
    backward_side(boxes_of<T>(b), m, boxes_of<T>(a), n, pairs, 1, m, side(grad2));
  });
  return {torch::stable::to(grad1, boxes1.scalar_type()), torch::stable::to(grad2, boxes2.scalar_type())};
}

}  // namespace
}  // namespace fastvision::box_iou

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("box_iou", TORCH_BOX(&fastvision::box_iou::box_iou));
  m.impl("box_iou_backward", TORCH_BOX(&fastvision::box_iou::box_iou_backward));
}
