// paste_masks on CUDA: one thread a pixel.
#include "common/boxes_of.h"
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "masks/paste_masks.h"

namespace fastvision::paste_masks {
namespace {

constexpr const char* kOp = "paste_masks";
constexpr int kThreads = 256;

template <class T, class Out>
__global__ void __launch_bounds__(kThreads)
    paste(const T* masks, const Box<T>* boxes, int64_t first, int64_t rows, int64_t columns, int64_t height,
          int64_t width, Rule rule, bool bilevel, T threshold, Out* out) {
  const int64_t n = first + blockIdx.z, pixel = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= height * width) return;
  const int64_t r = pixel / width, c = pixel % width;
  const Box<T> box = boxes[n];
  const Axis<T> y = axis_of(box.y1, box.y2, rows, height, rule), x = axis_of(box.x1, box.x2, columns, width, rule);
  T value = 0;
  if (r >= y.begin && r < y.end && c >= x.begin && c < x.end) {
    const Tap<T> ty = y.tap(r), tx = x.tap(c);
    const T* mask = masks + n * rows * columns;
    T line[2];
    for (int i = 0; i < 2; ++i) {
      const T* row = mask + ty.index[i] * columns;
      line[i] = add_rn(mul_rn(row[tx.index[0]], tx.weight[0]), mul_rn(row[tx.index[1]], tx.weight[1]));
    }
    value = add_rn(mul_rn(ty.weight[0], line[0]), mul_rn(ty.weight[1], line[1]));
  }
  out[n * height * width + pixel] = bilevel ? Out(covers(value, threshold, rule)) : Out(value);
}

Tensor paste_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                   std::optional<double> threshold, std::string rule_name) {
  const Rule rule = validate(kOp, masks, boxes, height, width, rule_name);
  const ScalarType type = geometry_type(masks.scalar_type());
  const Tensor m = contiguous_as(masks, type), b = contiguous_as(boxes, type);
  const int64_t n = m.size(0);
  Tensor out = empty_tensor(m, {n, height, width}, threshold ? ScalarType::Bool : type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const auto run = [&](auto* target) {
      using Out = std::remove_reference_t<decltype(*target)>;
      constexpr int64_t kMasks = 65535;  // of a grid
      for (int64_t first = 0; first < n; first += kMasks) {
        const dim3 grid(blocks_for(height * width, kThreads), 1, unsigned(minimum(n - first, kMasks)));
        launch(kOp, &paste<T, Out>, {grid, kThreads}, m, m.const_data_ptr<T>(), boxes_of<T>(b), first, m.size(1),
               m.size(2), height, width, rule, threshold.has_value(), T(threshold.value_or(0)), target);
      }
    };
    if (threshold) {
      run(out.mutable_data_ptr<bool>());
    } else {
      run(out.mutable_data_ptr<T>());
    }
  });
  return threshold ? out : as_type(out, masks.scalar_type());
}

}  // namespace
}  // namespace fastvision::paste_masks

FV_CUDA_LIBRARY(m) { m.impl("paste_masks", TORCH_BOX(&fastvision::paste_masks::paste_masks)); }
