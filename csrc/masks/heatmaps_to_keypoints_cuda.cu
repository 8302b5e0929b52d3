// heatmaps_to_keypoints on CUDA: one block a heatmap, one thread a pixel of the resized heatmap at a time.
#include <tuple>

#include "common/boxes_of.h"
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "masks/heatmaps_to_keypoints.h"

namespace fastvision::heatmaps_to_keypoints {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) find_peak(const T* heatmaps, const Box<T>* rois, int64_t k, int64_t rows,
                                                      int64_t columns, T* keypoints, T* scores) {
  FV_SHARED(T, best_value, [kThreads]);
  FV_SHARED(int64_t, best_pixel, [kThreads]);
  const int t = threadIdx.x;
  const int64_t j = blockIdx.x;
  const Box<T> roi = rois[j / k];
  const Axis<T> x(roi.x1, roi.x2, columns), y(roi.y1, roi.y2, rows);
  const T* heatmap = heatmaps + j * rows * columns;
  const int64_t count = x.pixels * y.pixels;
  T most = T(-INFINITY);
  int64_t where = -1;
  for (int64_t pixel = t; pixel < count; pixel += kThreads) {
    const Taps<T> r = taps_of(y, pixel / x.pixels), c = taps_of(x, pixel % x.pixels);
    T value = 0;
    for (int i = 0; i < 4; ++i) {
      const T* line = heatmap + r.index[i] * columns;
      T along = mul_rn(line[c.index[0]], c.weight[0]);
      for (int l = 1; l < 4; ++l) along = add_rn(along, mul_rn(line[c.index[l]], c.weight[l]));
      const T part = mul_rn(along, r.weight[i]);
      value = i == 0 ? part : add_rn(value, part);
    }
    if (where < 0 || precedes(value, pixel, most, where)) most = value, where = pixel;
  }
  best_value[t] = most, best_pixel[t] = where;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (t < half && best_pixel[t + half] >= 0) {
      const T other = best_value[t + half];
      if (best_pixel[t] < 0 || precedes(other, best_pixel[t + half], best_value[t], best_pixel[t])) {
        best_value[t] = other, best_pixel[t] = best_pixel[t + half];
      }
    }
    __syncthreads();
  }
  if (t > 0) return;
  const bool any = count > 0;
  keypoints[3 * j] = any ? x.place(best_pixel[0] % x.pixels) : roi.x1;
  keypoints[3 * j + 1] = any ? y.place(best_pixel[0] / x.pixels) : roi.y1;
  keypoints[3 * j + 2] = 1;
  scores[j] = any ? best_value[0] : T(NAN);
}

std::tuple<Tensor, Tensor> heatmaps_to_keypoints(const Tensor& heatmaps, const Tensor& rois) {
  validate(heatmaps, rois);
  const ScalarType type = geometry_type(heatmaps, rois);
  const Tensor h = contiguous_as(heatmaps, type), r = contiguous_as(rois, type);
  const int64_t n = h.size(0), k = h.size(1);
  Tensor keypoints = empty_tensor(h, {n, k, 3}), scores = empty_tensor(h, {n, k});
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    launch(kOp, &find_peak<T>, {blocks_for(n * k, 1), kThreads}, h, h.const_data_ptr<T>(), boxes_of<T>(r), k, h.size(2),
           h.size(3), keypoints.mutable_data_ptr<T>(), scores.mutable_data_ptr<T>());
  });
  return {keypoints, scores};
}

}  // namespace
}  // namespace fastvision::heatmaps_to_keypoints

FV_CUDA_LIBRARY(m) {
  m.impl("heatmaps_to_keypoints", TORCH_BOX(&fastvision::heatmaps_to_keypoints::heatmaps_to_keypoints));
}
