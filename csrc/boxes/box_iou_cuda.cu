// box_iou on CUDA: one thread a pair; the backward one warp a box, summed in a fixed order.
#include "boxes/box_iou_ops.h"
#include "common/cuda_library.cuh"

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

template <class T>
__global__ void gradients(Side<T> side, Box<T>* out) {
  const int64_t i = (int64_t(blockIdx.x) * kBlock + threadIdx.x) / 32;
  if (i >= side.n) return;  // whole warps
  const int lane = threadIdx.x % 32;
  Box<T> sum = side.gradient(i, lane, 32);
  sum = {warp_sum(sum.x1), warp_sum(sum.y1), warp_sum(sum.x2), warp_sum(sum.y2)};
  if (lane == 0) out[i] = sum;
}

struct CudaPairs {
  template <class T>
  static void forward(const Tensor& like, const Box<T>* boxes1, int64_t n, const Box<T>* boxes2, int64_t m, T* out) {
    launch("box_iou", &pairs<T>, {blocks_for(n * m, kBlock), kBlock}, like, boxes1, n, boxes2, m, out);
  }

  template <class T>
  static void backward(const Tensor& like, const Side<T>& side, Box<T>* out) {
    launch("box_iou_backward", &gradients<T>, {blocks_for(side.n, kBlock / 32), kBlock}, like, side, out);
  }
};

}  // namespace
}  // namespace fastvision::box_iou

FV_CUDA_LIBRARY(m) {
  using namespace fastvision::box_iou;
  register_ops<CudaPairs>(m);
}
