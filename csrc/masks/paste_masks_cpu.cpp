// paste_masks on the CPU: masks over threads; only the part of the output where its box is gets written.
#include <torch/csrc/stable/library.h>

#include "common/boxes_of.h"
#include "common/dispatch.h"
#include "common/host_device.h"
#include "common/layout.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "common/zeros.h"
#include "masks/resample.h"

namespace fastvision::paste_masks {
namespace {

constexpr const char* kOp = "paste_masks";

template <class T, class Out, class Write>
void paste(const T* masks, const Box<T>* boxes, int64_t count, int64_t rows, int64_t columns, int64_t height,
           int64_t width, Rule rule, Out* out, const Write& write) {
  const auto paste_one = [&](int64_t n) {
    Out* image = out + n * height * width;
    const Box<T> box = boxes[n];
    const Axis<T> y = axis_of(box.y1, box.y2, rows, height, rule), x = axis_of(box.x1, box.x2, columns, width, rule);
    if (y.begin >= y.end || x.begin >= x.end) return;
    vectorized([&]() __attribute__((always_inline)) {
      const Resampled<T> mask(masks + n * rows * columns, x, y, false);
      for (int64_t r = y.begin; r < y.end; ++r) {
        Out* row = image + r * width + x.begin;
        mask.line(r, [row, write](int64_t p, T value) __attribute__((always_inline)) { row[p] = write(value); });
      }
    });
  };
  // Runs of images that fill huge pages: two threads on one fresh page would both clear it, one of them in vain.
  const int64_t pages = ceil_div(4 * int64_t(kHugePage), height * width * int64_t(sizeof(Out)));
  const int64_t run = std::min(pages, ceil_div(count, thread_count()));
  parallel_workers(ceil_div(count, run), [&](const auto& next) {
    for (int64_t first = next() * run; first < count; first = next() * run) {
      for (int64_t n = first; n < std::min(count, first + run); ++n) paste_one(n);
    }
  });
}

Tensor paste_masks(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                   std::optional<double> threshold, std::string rule_name) {
  const Rule rule = validate(kOp, masks, boxes, height, width, rule_name);
  const ScalarType type = geometry_type(masks.scalar_type());
  const Tensor m = contiguous_as(masks, type), b = contiguous_as(boxes, type);
  const int64_t n = m.size(0), rows = m.size(1), columns = m.size(2);
  const int64_t element = threshold ? 1 : type == ScalarType::Double ? 8 : 4;
  Tensor out = sparse_zeros(m, {n, height, width}, threshold ? ScalarType::Bool : type, element);
  if (out.numel() > 0) {
    dispatch_geometry(type, [&](auto t) {
      using T = typename decltype(t)::type;
      const auto run = [&](auto* target, const auto& write) {
        paste(m.const_data_ptr<T>(), boxes_of<T>(b), n, rows, columns, height, width, rule, target, write);
      };
      const T least = T(threshold.value_or(0));
      if (threshold && covers(T(0), least, rule)) torch::stable::fill_(out, 1);
      if (!threshold) {
        run(out.mutable_data_ptr<T>(), [](T value) { return value; });
      } else if (rule == Rule::kDetectron2) {
        run(out.mutable_data_ptr<bool>(), [least](T value) { return value >= least; });
      } else {
        run(out.mutable_data_ptr<bool>(), [least](T value) { return value > least; });
      }
    });
  }
  return threshold ? out : as_type(out, masks.scalar_type());
}

}  // namespace
}  // namespace fastvision::paste_masks

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("paste_masks", TORCH_BOX(&fastvision::paste_masks::paste_masks));
}
