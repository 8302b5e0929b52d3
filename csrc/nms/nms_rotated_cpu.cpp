// nms_rotated on the CPU: each candidate, in rank order, against the boxes kept so far that share a cell with it.
//
// A kept box is filed in every cell its bounding box covers. If two boxes overlap by IoU > t >= 1/2 the kept one, being
// convex, contains the candidate's centre (a line through the centre that it does not cross would leave it less than
// half of the candidate), so one cell tells. For smaller t the candidate looks into all cells of its bounding box.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "common/rotated_lanes.h"
#include "nms/cells.h"
#include "nms/classes.h"
#include "nms/nms_rotated.h"

namespace fastvision::nms_rotated {
namespace {

// Kept boxes side by side. An unused lane has area NaN, whose overlap is NaN, which suppresses nothing.
struct Lanes : RotatedLanes {
  Lanes() { std::fill_n(area, kLanes, std::nan("")); }

  bool any_over(const RotatedBox& box, double threshold) const {
    // IoU is at most the smaller area over the larger one
    int near = 0;
    for (int l = 0; l < kLanes; ++l) {
      const double least = minimum(area[l], box.area), most = maximum(area[l], box.area);
      const bool alike = least >= threshold * most * (1 - 1e-12);
      near |= alike && !apart(x[l], y[l], radius[l], box.x, box.y, box.radius);
    }
    if (!near) return false;
    int over = 0;
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) over |= rotated_iou(at(l), box) > threshold;
    return over != 0;
  }
};

struct Bounds {
  double x1, y1, x2, y2;

  // of the box, widened by more than rounding may move it
  explicit Bounds(const RotatedBox& b) {
    const double reach_x = b.half_width * std::abs(b.cosine) + b.half_height * std::abs(b.sine);
    const double reach_y = b.half_width * std::abs(b.sine) + b.half_height * std::abs(b.cosine);
    const double pad = 1e-12 * (std::abs(b.x) + std::abs(b.y) + reach_x + reach_y);
    x1 = b.x - reach_x - pad, x2 = b.x + reach_x + pad;
    y1 = b.y - reach_y - pad, y2 = b.y + reach_y + pad;
  }
};

nms::Cells<double>::Sample sample_of(const std::vector<RotatedBox>& boxes) {
  nms::Cells<double>::Sample sample;
  for (size_t i = 0; i < boxes.size(); i += 1 + boxes.size() / 1024) {
    const Bounds bounds(boxes[i]);
    if (boxes[i].area > 0) sample.add(bounds.x1, bounds.y1, bounds.x2, bounds.y2);
  }
  return sample;
}

class Grid {
 public:
  static constexpr int64_t kMostCells = 256;  // a box that covers more is compared with every candidate

  Grid(const std::vector<RotatedBox>& boxes, double threshold)
      : threshold_(threshold),
        cells_(sample_of(boxes), int64_t(boxes.size())),
        lists_(cells_.count(), int64_t(boxes.size())),
        oversized_(1, 0) {}

  bool suppresses(const RotatedBox& box) const {
    const auto over = [&](const Lanes& kept) __attribute__((always_inline)) { return kept.any_over(box, threshold_); };
    if (oversized_.any(0, over)) return true;
    if (threshold_ >= 0.5) return lists_.any(cells_.row_of(box.y) * cells_.columns() + cells_.column_of(box.x), over);
    bool found = false;
    for_each_cell(box, [&](int64_t cell) { found = found || lists_.any(cell, over); });
    return found;
  }

  void keep(const RotatedBox& box) {
    if (for_each_cell(box, [](int64_t) {}) > kMostCells) return oversized_.insert(0, box);
    for_each_cell(box, [&](int64_t cell) { lists_.insert(cell, box); });
  }

 private:
  // Visits the cells a box covers, if they are few, and returns how many they are.
  template <class Visit>
  int64_t for_each_cell(const RotatedBox& box, const Visit& visit) const {
    const Bounds bounds(box);
    const int64_t c0 = cells_.column_of(bounds.x1), c1 = cells_.column_of(bounds.x2);
    const int64_t r0 = cells_.row_of(bounds.y1), r1 = cells_.row_of(bounds.y2);
    for (int64_t r = r0; r <= r1; ++r) {
      for (int64_t c = c0; c <= c1; ++c) visit(r * cells_.columns() + c);
    }
    return (c1 - c0 + 1) * (r1 - r0 + 1);
  }

  double threshold_;
  nms::Cells<double> cells_;
  nms::Lists<Lanes> lists_;
  nms::Lists<Lanes> oversized_;  // one cell
};

// Writes the positions kept of boxes in rank order and returns how many there are.
[[gnu::always_inline]] inline int64_t suppress(const std::vector<RotatedBox>& boxes, double threshold, int64_t* kept) {
  Grid grid(boxes, threshold);
  int64_t count = 0;
  for (size_t i = 0; i < boxes.size(); ++i) {
    const RotatedBox box = boxes[i];
    const bool inert = !(box.area > 0);  // not finite, or empty: its overlaps are NaN or 0
    if (!inert && grid.suppresses(box)) continue;
    kept[count++] = int64_t(i);
    if (!inert) grid.keep(box);
  }
  return count;
}

// Every overlap but NaN is above a negative threshold.
int64_t first_finite(const std::vector<RotatedBox>& boxes, int64_t* kept) {
  int64_t count = 0;
  bool found = false;
  for (size_t i = 0; i < boxes.size(); ++i) {
    const bool finite = boxes[i].area == boxes[i].area;
    if (!finite || !found) kept[count++] = int64_t(i);
    found |= finite;
  }
  return count;
}

Tensor nms_rotated(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs, double iou_threshold,
                   bool clockwise) {
  validate(boxes, scores, idxs, iou_threshold);
  const ScalarType type = geometry_type(boxes.scalar_type()), score_type = geometry_type(scores.scalar_type());
  const Tensor plain = contiguous_as(boxes, type), plain_scores = contiguous_as(scores, score_type);
  std::optional<Tensor> classes;
  if (idxs) classes = contiguous_as(*idxs, ScalarType::Long);
  const std::vector<int64_t> order = dispatch_geometry(score_type, [&](auto s) {
    using S = typename decltype(s)::type;
    return nms::rank(plain_scores.const_data_ptr<S>(), plain_scores.numel(), std::nullopt);
  });
  const std::vector<int64_t> kept = dispatch_geometry(type, [&](auto t) {
    const auto* rows = plain.const_data_ptr<typename decltype(t)::type>();
    const auto one_class = [&](const std::vector<int64_t>& indices, int64_t* survivors) {
      std::vector<RotatedBox> ranked(indices.size());
      for (size_t i = 0; i < indices.size(); ++i) ranked[i] = rotated_box(rows + 5 * indices[i], clockwise);
      if (iou_threshold < 0) return first_finite(ranked, survivors);
      int64_t count = 0;
      vectorized([&]() __attribute__((always_inline)) { count = suppress(ranked, iou_threshold, survivors); });
      return count;
    };
    return nms::kept_of_classes(order, classes ? classes->const_data_ptr<int64_t>() : nullptr, boxes.size(0),
                                one_class);
  });
  Tensor result = empty_vector(boxes, int64_t(kept.size()), ScalarType::Long);
  std::copy(kept.begin(), kept.end(), result.mutable_data_ptr<int64_t>());
  return result;
}

}  // namespace
}  // namespace fastvision::nms_rotated

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("nms_rotated", TORCH_BOX(&fastvision::nms_rotated::nms_rotated));
}
