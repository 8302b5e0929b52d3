// box_iou on CUDA: one thread a pair; the backward one warp a box, summed in a fixed order.
#include <tuple>

#include "boxes/box_iou.h"
#include "common/cuda_library.cuh"
#include "common/dispatch.h"

namespace fastvision::box_iou {
namespace {

constexpr int kBlock = 256;

// out [n, m]
template <class T>
__global__ void pairs(const Box<T>* boxes1, int64_t n, const Box<T>* boxes2, int64_t m, T* out) {
  const int64_t e = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (e >= n * m) return;
  const Box<T> a = boxes1[e / m], b = boxes2[e % m];
  out[e] = iou(a, b, box_area(a), box_area(b));
}

template <class T>
FV_DEVICE T warp_sum(T value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// Gradient for boxes [n], each against all others [m]; grad of pair (i, j) at i * row + j * column.
template <class T>
__global__ void gradients(const Box<T>* boxes, int64_t n, const Box<T>* others, int64_t m, const T* grad, int64_t row,
                          int64_t column, Box<T>* out) {
  const int64_t i = (int64_t(blockIdx.x) * kBlock + threadIdx.x) / 32;
  if (i >= n) return;  // whole warps
  const int lane = threadIdx.x % 32;
  const Box<T> a = boxes[i];
  const T area = box_area(a);
  Box<T> sum{0, 0, 0, 0};
  for (int64_t j = lane; j < m; j += 32) {
    add_gradient(a, others[j], area, box_area(others[j]), grad[i * row + j * column], sum);
  }
  sum = {warp_sum(sum.x1), warp_sum(sum.y1), warp_sum(sum.x2), warp_sum(sum.y2)};
  if (lane == 0) out[i] = sum;
}

Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  validate("box_iou", boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type);
  const int64_t n = a.size(0), m = b.size(0);
  Tensor result = torch::stable::new_empty(a, {n, m}, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("box_iou", &pairs<T>, {blocks_for(n * m, kBlock), kBlock}, a, boxes_of<T>(a), n, boxes_of<T>(b), m,
           result.mutable_data_ptr<T>());
  });
  return result;
}

std::tuple<Tensor, Tensor> box_iou_backward(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2) {
  constexpr const char* kOp = "box_iou_backward";
  validate_grad(kOp, grad, boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type), g = contiguous_as(grad, type);
  const int64_t n = a.size(0), m = b.size(0);
  Tensor grad1 = torch::stable::new_empty(a, {n, 4}), grad2 = torch::stable::new_empty(b, {m, 4});
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* pair_grads = g.const_data_ptr<T>();
    const auto side = [](const Tensor& out) { return reinterpret_cast<Box<T>*>(out.mutable_data_ptr<T>()); };
    launch(kOp, &gradients<T>, {blocks_for(n, kBlock / 32), kBlock}, a, boxes_of<T>(a), n, boxes_of<T>(b), m,
           pair_grads, m, 1, side(grad1));
    launch(kOp, &gradients<T>, {blocks_for(m, kBlock / 32), kBlock}, a, boxes_of<T>(b), m, boxes_of<T>(a), n,
           pair_grads, 1, m, side(grad2));
  });
  return {torch::stable::to(grad1, boxes1.scalar_type()), torch::stable::to(grad2, boxes2.scalar_type())};
}

}  // namespace
}  // namespace fastvision::box_iou

FV_CUDA_LIBRARY(m) {
  m.impl("box_iou", TORCH_BOX(&fastvision::box_iou::box_iou));
  m.impl("box_iou_backward", TORCH_BOX(&fastvision::box_iou::box_iou_backward));
}
