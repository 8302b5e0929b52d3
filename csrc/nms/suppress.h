// Greedy suppression on the host: each candidate, in rank order, against the boxes kept so far.
//
// Two searches give the same answer. `Linear` compares with every kept box. `Grid` uses a fact about IoU: if
// IoU(kept, candidate) > t, their intersection is longer than t times the candidate's side along each axis, so of
// m = ceil(1/t) - 1 points that cut a side into m + 1 equal parts at least one lies inside the kept box. For t >= 1/2
// that is the centre alone. A kept box is therefore filed in every cell it covers, and a candidate looks only into
// the cells of its m x m points. DIoU never exceeds IoU, so the same cells serve it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "nms/cells.h"
#include "nms/nms.h"

namespace fastvision::nms {

// Boxes in rank order, structure of arrays.
template <class T>
struct RankedBoxes {
  const T *x1, *y1, *x2, *y2, *area;
  int64_t count;

  Box<T> box(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
};

// Areas below this have lost digits to underflow, and with them the relations that the shortcuts rest on.
template <class T>
constexpr T smallest_exact() {
  return std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon();
}

// `kLanes` kept boxes side by side, for instructions that compare as many at once; an unused lane has area NaN, whose
// overlap is NaN, which suppresses nothing.
template <class T, int kBytes>
struct Lanes {
  static constexpr int kLanes = kBytes / int(sizeof(T));
  T x1[kLanes]{}, y1[kLanes]{}, x2[kLanes]{}, y2[kLanes]{}, area[kLanes];

  Lanes() { std::fill_n(area, kLanes, std::numeric_limits<T>::quiet_NaN()); }

  void set(int lane, const Box<T>& box, T box_area) {
    x1[lane] = box.x1, y1[lane] = box.y1, x2[lane] = box.x2, y2[lane] = box.y2, area[lane] = box_area;
  }

  template <Metric metric>
  bool any_over(const Box<T>& candidate, T candidate_area, T threshold) const {
    // Products with a slightly smaller and a slightly larger threshold settle most without a division. One reduction
    // over the lanes costs as much as the arithmetic, so there is one for each question.
    if (metric == Metric::kIou && threshold > smallest_exact<T>() && threshold * candidate_area > smallest_exact<T>()) {
      constexpr T kSlack = 8 * std::numeric_limits<T>::epsilon();
      const T less = threshold * (1 - kSlack), more = threshold * (1 + kSlack);
      int maybe = 0, surely = 0;
      for (int l = 0; l < kLanes; ++l) {
        const T inter = intersection(Box<T>{x1[l], y1[l], x2[l], y2[l]}, candidate);
        maybe |= inter > less * (area[l] + candidate_area - inter);
      }
      if (!maybe) return false;
      for (int l = 0; l < kLanes; ++l) {
        const T inter = intersection(Box<T>{x1[l], y1[l], x2[l], y2[l]}, candidate);
        const T area_union = area[l] + candidate_area - inter;
        surely |= inter > more * area_union && area_union > 0;
      }
      if (surely) return true;
    }
    int over = 0;
    for (int l = 0; l < kLanes; ++l) {
      over |= overlap<metric>(Box<T>{x1[l], y1[l], x2[l], y2[l]}, candidate, area[l], candidate_area) > threshold;
    }
    return over != 0;
  }
};

// Every kept box in one list.
template <class T, Metric metric>
class Linear {
 public:
  explicit Linear(T threshold) : threshold_(threshold) {}

  bool suppresses(const Box<T>& box, T area) const {
    for (const Several& lanes : kept_) {
      if (lanes.template any_over<metric>(box, area, threshold_)) return true;
    }
    return false;
  }

  void keep(const Box<T>& box, T area) {
    const int lane = int(count_++ % Several::kLanes);
    if (lane == 0) kept_.emplace_back();
    kept_.back().set(lane, box, area);
  }

 private:
  using Several = Lanes<T, 128>;  // some instructions' worth, for one look at the outcome

  T threshold_;
  int64_t count_ = 0;
  std::vector<Several> kept_;
};

// Kept boxes in every cell they cover.
template <class T, Metric metric, int kBytes>
class Grid {
 public:
  static constexpr double kLowestThreshold = 0.2;  // below it a candidate would look at 5 x 5 points and more
  static constexpr int64_t kMostCells = 128;       // a box that covers more goes to the linear list

  Grid(const RankedBoxes<T>& boxes, T threshold)
      : threshold_(threshold),
        points_(std::max(1, int(std::ceil(1.0 / double(threshold))) - 1)),
        part_(T(1) / (points_ + 1)),
        cells_(sample_of(boxes), boxes.count),
        lists_(cells_.count(), boxes.count),
        oversized_(threshold) {}

  bool suppresses(const Box<T>& box, T area) const {
    if (!comparable(box, area)) return false;
    if (oversized_.suppresses(box, area)) return true;
    const auto over = [box, area, threshold = threshold_](const Lanes<T, kBytes>& kept) {
      return kept.template any_over<metric>(box, area, threshold);
    };
    const T step_x = (box.x2 - box.x1) * part_, step_y = (box.y2 - box.y1) * part_;
    int64_t last_row = -1;
    for (int j = 1; j <= points_; ++j) {
      const int64_t row = cells_.row_of(box.y1 + j * step_y);
      if (row == last_row) continue;
      last_row = row;
      int64_t last_column = -1;
      for (int i = 1; i <= points_; ++i) {
        const int64_t column = cells_.column_of(box.x1 + i * step_x);
        if (column == last_column) continue;
        last_column = column;
        if (lists_.any(row * cells_.columns() + column, over)) return true;
      }
    }
    return false;
  }

  void keep(const Box<T>& box, T area) {
    if (!comparable(box, area)) return;  // NaN, infinite or empty: overlaps nothing
    // The points are rounded: widen the box by a few units in the last place so that none falls just outside.
    const T pad_x = pad(box.x1, box.x2), pad_y = pad(box.y1, box.y2);
    const int64_t c0 = cells_.column_of(box.x1 - pad_x), c1 = cells_.column_of(box.x2 + pad_x);
    const int64_t r0 = cells_.row_of(box.y1 - pad_y), r1 = cells_.row_of(box.y2 + pad_y);
    if ((c1 - c0 + 1) * (r1 - r0 + 1) > kMostCells) return oversized_.keep(box, area);
    for (int64_t r = r0; r <= r1; ++r) {
      for (int64_t c = c0; c <= c1; ++c) lists_.insert(r * cells_.columns() + c, box, area);
    }
  }

 private:
  static bool comparable(const Box<T>& box, T area) {
    return box.x2 > box.x1 && box.y2 > box.y1 && area < std::numeric_limits<T>::infinity();
  }

  static T pad(T low, T high) {
    return 16 * std::numeric_limits<T>::epsilon() * maximum(std::abs(low), std::abs(high));
  }

  static typename Cells<T>::Sample sample_of(const RankedBoxes<T>& boxes) {
    typename Cells<T>::Sample sample;
    for (int64_t i = 0; i < boxes.count; i += 1 + boxes.count / 1024) {
      if (comparable(boxes.box(i), boxes.area[i])) sample.add(boxes.x1[i], boxes.y1[i], boxes.x2[i], boxes.y2[i]);
    }
    return sample;
  }

  T threshold_;
  int points_;
  T part_;
  Cells<T> cells_;
  Lists<Lanes<T, kBytes>> lists_;
  Linear<T, metric> oversized_;
};

// Writes the ranks kept to `kept` (room for min(count, max_output)) and returns how many there are.
template <class T, class Search>
int64_t suppress(const RankedBoxes<T>& boxes, Search search, int64_t max_output, int64_t* kept) {
  int64_t count = 0;
  for (int64_t i = 0; i < boxes.count && count < max_output; ++i) {
    const Box<T> box = boxes.box(i);
    if (search.suppresses(box, boxes.area[i])) continue;
    search.keep(box, boxes.area[i]);
    kept[count++] = i;
  }
  return count;
}

template <class T, Metric metric, int kBytes>
int64_t suppress(const RankedBoxes<T>& boxes, T threshold, int64_t max_output, int64_t* kept) {
  constexpr int64_t kGridFrom = 300;  // boxes; below it the linear list is as fast
  // "intersection over the smaller box" says nothing about the candidate's own side, so the grid cannot serve it
  const auto underflows = [&](int64_t i) { return boxes.area[i] > 0 && boxes.area[i] < smallest_exact<T>(); };
  int tiny = 0;
  for (int64_t i = 0; i < boxes.count; ++i) tiny |= underflows(i);
  if (metric != Metric::kIos && boxes.count >= kGridFrom && threshold >= T(Grid<T, metric, kBytes>::kLowestThreshold) &&
      !tiny) {
    return suppress<T>(boxes, Grid<T, metric, kBytes>(boxes, threshold), max_output, kept);
  }
  return suppress<T>(boxes, Linear<T, metric>(threshold), max_output, kept);
}

}  // namespace fastvision::nms
