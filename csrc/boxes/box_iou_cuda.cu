// box_iou on CUDA: one thread a pair; the backward one warp a box, summed in a fixed order.
#include "boxes/box_iou_ops.h"
#include "common/cuda_library.cuh"

namespace fastvision::box_iou {
namespace {

constexpr int kBlock = 256;

// out [n, m]
template <Kind kind, class T>
__global__ void all_pairs(Sides<T> sides, T* out) {
  const int64_t e = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (e >= sides.n * sides.m) return;
  const Measured<T> a = measure<kind>(sides.first[e / sides.m]), b = measure<kind>(sides.second[e % sides.m]);
  out[e] = overlap<kind>(a, b, sides.slack);
}

// out [n]
template <Kind kind, class T>
__global__ void row_pairs(Sides<T> sides, T* out) {
  const int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= sides.n) return;
  out[i] = overlap<kind>(measure<kind>(sides.first[i]), measure<kind>(sides.second[i]), sides.slack);
}

template <Kind kind, class T>
__global__ void row_gradients(Sides<T> sides, const T* grad, Box<T>* to_first, Box<T>* to_second) {
  const int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= sides.n) return;
  const Measured<T> a = measure<kind>(sides.first[i]), b = measure<kind>(sides.second[i]);
  to_first[i] = gradient<kind>(a, b, sides.slack, grad[i]).corners(a.box);
  to_second[i] = gradient<kind>(b, a, sides.slack, grad[i]).corners(b.box);
}

template <class T>
FV_DEVICE T warp_sum(T value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// With respect to sides.first; grad of pair (i, j) at grad[i * row + j * column].
template <Kind kind, class T>
__global__ void gradients(Sides<T> sides, const T* grad, int64_t row, int64_t column, Box<T>* out) {
  const int64_t i = (int64_t(blockIdx.x) * kBlock + threadIdx.x) / 32;
  if (i >= sides.n) return;  // whole warps
  const int lane = threadIdx.x % 32;
  const Measured<T> a = measure<kind>(sides.first[i]);
  Gradient<T> sum;
  for (int64_t j = lane; j < sides.m; j += 32) {
    sum.add(gradient<kind>(a, measure<kind>(sides.second[j]), sides.slack, grad[i * row + j * column]));
  }
  sum = {warp_sum(sum.x1), warp_sum(sum.y1),   warp_sum(sum.x2),
         warp_sum(sum.y2), warp_sum(sum.area), warp_sum(sum.aspect)};
  if (lane == 0) out[i] = sum.corners(a.box);
}

constexpr const char *kForward = "box_iou", *kBackward = "box_iou_backward";

struct CudaPairs {
  template <Kind kind, class T>
  static void forward(const Tensor& like, const Sides<T>& sides, T* out) {
    launch(kForward, &all_pairs<kind, T>, {blocks_for(sides.n * sides.m, kBlock), kBlock}, like, sides, out);
  }

  template <Kind kind, class T>
  static void rows(const Tensor& like, const Sides<T>& sides, T* out) {
    launch(kForward, &row_pairs<kind, T>, {blocks_for(sides.n, kBlock), kBlock}, like, sides, out);
  }

  template <Kind kind, class T>
  static void rows_backward(const Tensor& like, const Sides<T>& sides, const T* grad, Box<T>* to_first,
                            Box<T>* to_second) {
    launch(kBackward, &row_gradients<kind, T>, {blocks_for(sides.n, kBlock), kBlock}, like, sides, grad, to_first,
           to_second);
  }

  template <Kind kind, class T>
  static void backward(const Tensor& like, const Sides<T>& sides, const T* grad, Box<T>* to_first, Box<T>* to_second) {
    const Sides<T> turned{sides.second, sides.m, sides.first, sides.n, sides.slack};
    launch(kBackward, &gradients<kind, T>, {blocks_for(sides.n, kBlock / 32), kBlock}, like, sides, grad, sides.m, 1,
           to_first);
    launch(kBackward, &gradients<kind, T>, {blocks_for(sides.m, kBlock / 32), kBlock}, like, turned, grad, 1, sides.m,
           to_second);
  }
};

}  // namespace
}  // namespace fastvision::box_iou

FV_CUDA_LIBRARY(m) {
  using namespace fastvision::box_iou;
  register_ops<CudaPairs>(m);
}
