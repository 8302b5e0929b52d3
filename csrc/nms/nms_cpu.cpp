// nms on the CPU, of one set of boxes and of a batch of sets.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "common/simd.h"
#include "nms/classes.h"
#include "nms/suppress.h"

namespace fastvision::nms {
namespace {

// Structure of arrays of the boxes [N, 4] at `indices`
template <class T>
struct Columns {
  Buffer<T> data;
  int64_t count;

  Columns(const T* boxes, const std::vector<int64_t>& indices) : data(5 * indices.size()), count(indices.size()) {
    T *x1 = data.data(), *y1 = x1 + count, *x2 = y1 + count, *y2 = x2 + count, *area = y2 + count;
    for (int64_t i = 0; i < count; ++i) {
      const T* box = boxes + 4 * indices[i];
      x1[i] = box[0], y1[i] = box[1], x2[i] = box[2], y2[i] = box[3];
      area[i] = box_area(Box<T>{box[0], box[1], box[2], box[3]});
    }
  }

  RankedBoxes<T> ranked() const {
    const T* x1 = data.data();
    return {x1, x1 + count, x1 + 2 * count, x1 + 3 * count, x1 + 4 * count, count};
  }
};

// One set: boxes [n, 4], scores [n], idxs [n] or null -> indices kept.
template <Metric metric, class T, class S>
std::vector<int64_t> keep(const T* boxes, const S* scores, const int64_t* idxs, int64_t n, const Params& params) {
  const std::vector<int64_t> order = rank(scores, n, params.score_threshold);
  return kept_of_classes(order, idxs, params.max_output, [&](const std::vector<int64_t>& indices, int64_t* kept) {
    const Columns<T> columns(boxes, indices);
    const auto run = [&](auto bytes) {
      int64_t count = 0;
      vectorized([&]() __attribute__((always_inline)) {
        count =
            suppress<T, metric, decltype(bytes)::value>(columns.ranked(), T(params.threshold), params.max_output, kept);
      });
      return count;
    };
    return vector_bytes() == 64 ? run(std::integral_constant<int, 64>{}) : run(std::integral_constant<int, 32>{});
  });
}

// Calls f(keep_row), where keep_row(row) gives the indices kept in one set of a batch: boxes [.., N, 4], scores and
// idxs [.., N]. Scores are ranked in float64 if stored so, and in float32 for every other dtype.
template <class F>
void with_rows(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& idxs, const Params& params,
               const F& f) {
  const int64_t n = boxes.size(-2);
  const ScalarType type = geometry_type(boxes.scalar_type()), score_type = geometry_type(scores.scalar_type());
  const Tensor plain = contiguous_as(boxes, type), plain_scores = contiguous_as(scores, score_type);
  std::optional<Tensor> classes;
  if (idxs) classes = contiguous_as(*idxs, ScalarType::Long);
  const int64_t* ids = classes ? classes->const_data_ptr<int64_t>() : nullptr;
  dispatch_geometry(type, [&](auto t) {
    dispatch_geometry(score_type, [&](auto s) {
      dispatch_metric(params.metric, [&](auto m) {
        const auto* box_data = plain.const_data_ptr<typename decltype(t)::type>();
        const auto* score_data = plain_scores.const_data_ptr<typename decltype(s)::type>();
        f([&](int64_t row) {
          return keep<decltype(m)::value>(box_data + row * n * 4, score_data + row * n, ids ? ids + row * n : nullptr,
                                          n, params);
        });
      });
    });
  });
}

Tensor nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs, double iou_threshold,
           std::optional<int64_t> max_output, std::optional<double> score_threshold, std::string metric) {
  const Params params = validate(boxes, scores, idxs, iou_threshold, max_output, score_threshold, metric);
  std::vector<int64_t> kept;
  with_rows(boxes, scores, idxs, params, [&](const auto& keep_row) { kept = keep_row(0); });
  Tensor result = empty_vector(boxes, int64_t(kept.size()), ScalarType::Long);
  std::copy(kept.begin(), kept.end(), result.mutable_data_ptr<int64_t>());
  return result;
}

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs,
                                      double iou_threshold, int64_t max_output, std::optional<double> score_threshold,
                                      std::string metric) {
  const Params params = validate_padded(boxes, scores, idxs, iou_threshold, max_output, score_threshold, metric);
  const int64_t batch = boxes.size(0);
  Tensor result = empty_tensor(boxes, {batch, max_output}, ScalarType::Long);
  Tensor counts = empty_vector(boxes, batch, ScalarType::Long);
  int64_t *out = result.mutable_data_ptr<int64_t>(), *count = counts.mutable_data_ptr<int64_t>();
  with_rows(boxes, scores, idxs, params, [&](const auto& keep_row) {
    parallel_for(batch, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const std::vector<int64_t> kept = keep_row(b);
        count[b] = int64_t(kept.size());
        std::fill(std::copy(kept.begin(), kept.end(), out + b * max_output), out + (b + 1) * max_output, -1);
      }
    });
  });
  return {result, counts};
}

}  // namespace
}  // namespace fastvision::nms

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("nms", TORCH_BOX(&fastvision::nms::nms));
  m.impl("nms_padded", TORCH_BOX(&fastvision::nms::nms_padded));
}
