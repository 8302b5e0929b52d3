// nms on the CPU: rank once, split by class, suppress each class on its own, merge in rank order.
#include <torch/csrc/stable/library.h>

#include <numeric>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/rank.h"
#include "common/simd.h"
#include "nms/suppress.h"

namespace fastvision::nms {
namespace {

template <class T>
struct Columns {
  std::vector<T> data;
  int64_t count;

  // boxes [N, 4] gathered at `order`
  Columns(const T* boxes, const std::vector<int64_t>& order) : data(5 * order.size()), count(int64_t(order.size())) {
    T *x1 = data.data(), *y1 = x1 + count, *x2 = y1 + count, *y2 = x2 + count, *area = y2 + count;
    for (int64_t i = 0; i < count; ++i) {
      const T* box = boxes + 4 * order[i];
      x1[i] = box[0], y1[i] = box[1], x2[i] = box[2], y2[i] = box[3];
      area[i] = box_area(Box<T>{box[0], box[1], box[2], box[3]});
    }
  }

  RankedBoxes<T> slice(int64_t begin, int64_t end) const {
    const T* x1 = data.data() + begin;
    return {x1, x1 + count, x1 + 2 * count, x1 + 3 * count, x1 + 4 * count, end - begin};
  }
};

// Stable grouping of ranks by class: positions [offsets[g], offsets[g + 1]) hold the ranks of one class, ascending.
struct Groups {
  std::vector<int64_t> ranks, offsets;
};

Groups group_by_class(const int64_t* idxs, const std::vector<int64_t>& order) {
  const int64_t n = int64_t(order.size());
  Groups groups;
  groups.ranks.resize(n);
  groups.offsets.push_back(0);
  int64_t low = std::numeric_limits<int64_t>::max(), high = std::numeric_limits<int64_t>::min();
  for (const int64_t i : order) low = std::min(low, idxs[i]), high = std::max(high, idxs[i]);
  const uint64_t range = uint64_t(high) - uint64_t(low);
  if (range < uint64_t(4 * n + 1024)) {  // counting sort
    std::vector<int64_t> start(range + 2, 0);
    for (const int64_t i : order) ++start[idxs[i] - low + 1];
    std::partial_sum(start.begin(), start.end(), start.begin());
    for (size_t g = 0; g <= range; ++g) {
      if (start[g + 1] > start[g]) groups.offsets.push_back(start[g + 1]);
    }
    for (int64_t r = 0; r < n; ++r) groups.ranks[start[idxs[order[r]] - low]++] = r;
  } else {
    std::iota(groups.ranks.begin(), groups.ranks.end(), 0);
    const auto id = [&](int64_t r) { return idxs[order[r]]; };
    std::stable_sort(groups.ranks.begin(), groups.ranks.end(), [&](int64_t a, int64_t b) { return id(a) < id(b); });
    for (int64_t r = 1; r <= n; ++r) {
      if (r == n || id(groups.ranks[r]) != id(groups.ranks[r - 1])) groups.offsets.push_back(r);
    }
  }
  return groups;
}

template <class T, Metric metric>
std::vector<int64_t> kept_ranks(const T* boxes, const std::vector<int64_t>& order, const Params& params) {
  std::vector<int64_t> kept(std::min<int64_t>(int64_t(order.size()), params.max_output));
  const Columns<T> columns(boxes, order);
  int64_t count = 0;
  vectorized([&]() __attribute__((always_inline)) {
    count = suppress<T, metric>(columns.slice(0, columns.count), T(params.threshold), params.max_output, kept.data());
  });
  kept.resize(count);
  return kept;
}

template <class T, Metric metric>
std::vector<int64_t> kept_ranks_by_class(const T* boxes, const int64_t* idxs, const std::vector<int64_t>& order,
                                         const Params& params) {
  const Groups groups = group_by_class(idxs, order);
  std::vector<int64_t> grouped(order.size());
  for (size_t p = 0; p < order.size(); ++p) grouped[p] = order[groups.ranks[p]];
  const Columns<T> columns(boxes, grouped);

  std::vector<uint8_t> keep(order.size(), 0);  // by rank
  std::vector<int64_t> kept(order.size());
  const auto one_class = [&](int64_t g) {
    const int64_t begin = groups.offsets[g], end = groups.offsets[g + 1];
    int64_t count = 0;
    vectorized([&]() __attribute__((always_inline)) {
      count =
          suppress<T, metric>(columns.slice(begin, end), T(params.threshold), params.max_output, kept.data() + begin);
    });
    for (int64_t i = 0; i < count; ++i) keep[groups.ranks[begin + kept[begin + i]]] = 1;
  };
  const int64_t classes = int64_t(groups.offsets.size()) - 1;
  parallel_for(classes, order.size() < 2000 ? classes : 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) one_class(g);
  });

  kept.clear();
  for (size_t r = 0; r < order.size() && int64_t(kept.size()) < params.max_output; ++r) {
    if (keep[r]) kept.push_back(int64_t(r));
  }
  return kept;
}

// Scores are ranked in float64 if stored so, and in float32 for every other dtype.
std::vector<int64_t> rank(const Tensor& scores, const std::optional<double>& threshold) {
  const ScalarType type = geometry_type(scores.scalar_type());
  const Tensor plain = contiguous_as(scores, type);
  return dispatch_geometry(type, [&](auto t) {
    using S = typename decltype(t)::type;
    const S* data = plain.const_data_ptr<S>();
    if (!threshold) return rank_descending(data, plain.numel(), [](S) { return true; });
    return rank_descending(data, plain.numel(), [least = S(*threshold)](S score) { return score > least; });
  });
}

Tensor nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs, double iou_threshold,
           std::optional<int64_t> max_output, std::optional<double> score_threshold, std::string metric) {
  const Params params = validate(boxes, scores, idxs, iou_threshold, max_output, score_threshold, metric);
  const std::vector<int64_t> order = rank(scores, params.score_threshold);

  const ScalarType type = geometry_type(boxes.scalar_type());
  const Tensor plain = contiguous_as(boxes, type);
  std::optional<Tensor> classes;
  if (idxs) classes = contiguous_as(*idxs, ScalarType::Long);

  const std::vector<int64_t> kept = dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* data = plain.const_data_ptr<T>();
    return dispatch_metric(params.metric, [&](auto m) {
      constexpr Metric kMetric = decltype(m)::value;
      if (!classes || order.empty()) return kept_ranks<T, kMetric>(data, order, params);
      return kept_ranks_by_class<T, kMetric>(data, classes->const_data_ptr<int64_t>(), order, params);
    });
  });

  Tensor result = torch::stable::new_empty(boxes, {int64_t(kept.size())}, ScalarType::Long);
  int64_t* out = result.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < kept.size(); ++i) out[i] = order[kept[i]];
  return result;
}

}  // namespace
}  // namespace fastvision::nms

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) { m.impl("nms", TORCH_BOX(&fastvision::nms::nms)); }
