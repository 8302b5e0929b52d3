// A uniform grid over boxes of about the same size: which cell a point lies in, and what cells hold. Positions are
// clamped to the grid, so its extent decides speed, never a result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "common/scalar.h"

namespace fastvision::nms {

template <class T>
class Cells {
 public:
  // What is known of a sample of the boxes: where they lie, and the sum of their sides.
  struct Sample {
    T low_x = std::numeric_limits<T>::max(), low_y = low_x, high_x = -low_x, high_y = -low_x;
    double width = 0, height = 0;
    int64_t count = 0;

    void add(T x1, T y1, T x2, T y2) {
      low_x = minimum(low_x, x1), high_x = maximum(high_x, x2);
      low_y = minimum(low_y, y1), high_y = maximum(high_y, y2);
      width += double(x2) - x1, height += double(y2) - y1;
      ++count;
    }
  };

  // For `boxes` boxes of which `sample` was taken.
  Cells(Sample sample, int64_t boxes) {
    if (sample.count == 0) sample = {0, 0, 0, 0, 0, 0, 1};
    const double width = sample.width / sample.count, height = sample.height / sample.count;
    const int64_t limit = std::max<int64_t>(1, int64_t(2 * std::sqrt(double(boxes))));
    const double extent_x = double(sample.high_x) - sample.low_x, extent_y = double(sample.high_y) - sample.low_y;
    // cells as large as the average box; where that crowds them, finer ones (measured: 64 boxes a cell, 1.5)
    const bool crowded = boxes / 64.0 * width * height > extent_x * extent_y;
    const double side = crowded ? 1 / 1.5 : 1;
    columns_ = cells_along(extent_x, side * width, limit);
    rows_ = cells_along(extent_y, side * height, limit);
    low_x_ = sample.low_x, low_y_ = sample.low_y;
    per_x_ = extent_x > 0 ? T(columns_ / extent_x) : T(0);
    per_y_ = extent_y > 0 ? T(rows_ / extent_y) : T(0);
  }

  int64_t count() const { return columns_ * rows_; }
  int64_t columns() const { return columns_; }

  // Monotone in x, and clamped before the cast.
  int64_t column_of(T x) const { return int64_t(maximum(T(0), minimum((x - low_x_) * per_x_, T(columns_ - 1)))); }
  int64_t row_of(T y) const { return int64_t(maximum(T(0), minimum((y - low_y_) * per_y_, T(rows_ - 1)))); }

 private:
  static int64_t cells_along(double extent, double mean, int64_t limit) {
    if (!(mean > 0) || !(extent / mean < double(limit))) return limit;
    return std::max<int64_t>(1, int64_t(extent / mean));
  }

  T low_x_, low_y_, per_x_, per_y_;
  int64_t columns_, rows_;
};

// A list of `Lanes` for each cell, from one arena, oldest and thereby best-scored boxes first: they suppress most. A
// list lies in one piece, which the processor prefetches; where it is full it moves to one of twice the length, and
// leaves its place unused: memory is at most four times what is filed. Lanes::set(lane, box...) files a box.
template <class Lanes>
class Lists {
 public:
  Lists(int64_t cells, int64_t boxes) : cells_(cells) { arena_.reserve(boxes / 2 + 16); }

  template <class... Box>
  void insert(int64_t cell, const Box&... box) {
    List& list = cells_[cell];
    const int32_t last = list.boxes / Lanes::kLanes;
    if (last == list.capacity) grow(list);
    arena_[list.begin + last].set(list.boxes % Lanes::kLanes, box...);
    ++list.boxes;
  }

  // Whether test(lanes) holds for any of a cell's.
  template <class Test>
  bool any(int64_t cell, const Test& test) const {
    const List& list = cells_[cell];
    const Lanes* lanes = arena_.data() + list.begin;
    for (int32_t left = list.boxes; left > 0; left -= Lanes::kLanes, ++lanes) {
      if (test(*lanes)) return true;
    }
    return false;
  }

 private:
  struct List {
    int64_t begin = 0;
    int32_t capacity = 0, boxes = 0;
  };

  void grow(List& list) {
    const int64_t end = int64_t(arena_.size());
    const int32_t capacity = std::max(1, 2 * list.capacity);
    const bool at_end = list.capacity > 0 && list.begin + list.capacity == end;
    const int64_t begin = at_end ? list.begin : end;
    arena_.resize(size_t(begin + capacity));
    if (!at_end) std::copy_n(arena_.begin() + list.begin, list.capacity, arena_.begin() + begin);
    list.begin = begin, list.capacity = capacity;
  }

  std::vector<List> cells_;
  std::vector<Lanes> arena_;
};

}  // namespace fastvision::nms
