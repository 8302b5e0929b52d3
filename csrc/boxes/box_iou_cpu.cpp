// box_iou on the CPU: rows over threads, boxes2 as structure of arrays so that a row vectorises.
#include <vector>

#include "boxes/box_iou_ops.h"
#include "common/parallel.h"
#include "common/simd.h"

namespace fastvision::box_iou {
namespace {

struct CpuPairs {
  // out [n, m]
  template <class T>
  static void forward(const Tensor&, const Box<T>* boxes1, int64_t n, const Box<T>* boxes2, int64_t m, T* out) {
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

  template <class T>
  static void backward(const Tensor&, const Side<T>& side, Box<T>* out) {
    const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(side.m, 1));
    parallel_for(side.n, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) out[i] = side.gradient(i, 0, 1);
    });
  }
};

}  // namespace
}  // namespace fastvision::box_iou

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  using namespace fastvision::box_iou;
  register_ops<CpuPairs>(m);
}
