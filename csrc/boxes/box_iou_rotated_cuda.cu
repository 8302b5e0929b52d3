// box_iou_rotated on CUDA: one thread a pair.
#include "boxes/box_iou_rotated.h"
#include "common/cuda_library.cuh"
#include "common/dispatch.h"

namespace fastvision::box_iou_rotated {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void measure(const T* rows, int64_t count, bool clockwise, RotatedBox* boxes) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) boxes[i] = rotated_box(rows + 5 * i, clockwise);
}

// out [n, m]
template <class T>
__global__ void __launch_bounds__(kThreads)
    pairs(const RotatedBox* first, int64_t n, const RotatedBox* second, int64_t m, T* out) {
  const int64_t e = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= n * m) return;
  const RotatedBox a = first[e / m], b = second[e % m];
  const bool far = apart(a.x, a.y, a.radius, b.x, b.y, b.radius);
  out[e] = T(far ? rotated_iou_apart(a.area, b.area) : rotated_iou(a, b));
}

template <class T>
Tensor measured(const Tensor& plain, bool clockwise) {
  constexpr int64_t kNumbers = sizeof(RotatedBox) / sizeof(double);
  const Tensor boxes = empty_tensor(plain, {plain.size(0), kNumbers}, ScalarType::Double);
  launch(kOp, &measure<T>, {blocks_for(plain.size(0), kThreads), kThreads}, plain, plain.const_data_ptr<T>(),
         plain.size(0), clockwise, reinterpret_cast<RotatedBox*>(boxes.mutable_data_ptr<double>()));
  return boxes;
}

Tensor box_iou_rotated(const Tensor& boxes1, const Tensor& boxes2, bool clockwise) {
  validate(boxes1, boxes2);
  const ScalarType type = geometry_type(boxes1, boxes2);
  const Tensor a = contiguous_as(boxes1, type), b = contiguous_as(boxes2, type);
  const int64_t n = a.size(0), m = b.size(0);
  Tensor result = empty_tensor(a, {n, m}, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const Tensor first = measured<T>(a, clockwise), second = measured<T>(b, clockwise);
    const auto boxes = [](const Tensor& from) {
      return reinterpret_cast<const RotatedBox*>(from.const_data_ptr<double>());
    };
    launch(kOp, &pairs<T>, {blocks_for(n * m, kThreads), kThreads}, a, boxes(first), n, boxes(second), m,
           result.mutable_data_ptr<T>());
  });
  return result;
}

}  // namespace
}  // namespace fastvision::box_iou_rotated

FV_CUDA_LIBRARY(m) { m.impl("box_iou_rotated", TORCH_BOX(&fastvision::box_iou_rotated::box_iou_rotated)); }
