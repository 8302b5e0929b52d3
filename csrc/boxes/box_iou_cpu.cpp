// box_iou on the CPU: rows over threads, boxes as structure of arrays so that a row vectorises.
#include <vector>

#include "boxes/box_iou_ops.h"
#include "common/parallel.h"
#include "common/simd.h"

namespace fastvision::box_iou {
namespace {

// Boxes as structure of arrays; the last vector is filled up with empty boxes.
template <Kind kind, class T>
class Columns {
 public:
  Columns(const Box<T>* boxes, int64_t count)
      : padded_((count + kVectorLanes<T> - 1) / kVectorLanes<T> * kVectorLanes<T>), data_(6 * padded_) {
    for (int64_t j = 0; j < count; ++j) {
      const Measured<T> m = measure<kind>(boxes[j]);
      T* x1 = data_.data() + j;
      x1[0] = m.box.x1, x1[padded_] = m.box.y1, x1[2 * padded_] = m.box.x2, x1[3 * padded_] = m.box.y2;
      x1[4 * padded_] = m.area, x1[5 * padded_] = m.aspect;
    }
  }

  [[gnu::always_inline]] Measured<T> operator[](int64_t j) const {
    const T* x1 = data_.data() + j;
    return {{x1[0], x1[padded_], x1[2 * padded_], x1[3 * padded_]}, x1[4 * padded_], x1[5 * padded_]};
  }

 private:
  int64_t padded_;
  std::vector<T> data_;
};

// Sums of gradients, one a lane.
template <class T>
struct GradientLanes {
  static constexpr int kLanes = kVectorLanes<T>;
  T x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes], aspect[kLanes];

  [[gnu::always_inline]] void add(int l, const Gradient<T>& g) {
    x1[l] += g.x1, y1[l] += g.y1, x2[l] += g.x2, y2[l] += g.y2, area[l] += g.area, aspect[l] += g.aspect;
  }

  [[gnu::always_inline]] Gradient<T> at(int l) const { return {x1[l], y1[l], x2[l], y2[l], area[l], aspect[l]}; }

  [[gnu::always_inline]] Gradient<T> sum() const {
    Gradient<T> total;
    for (int l = 0; l < kLanes; ++l) total.add(at(l));
    return total;
  }
};

// The backward pass goes tile by tile; each tile leaves the sums of its rows and of its columns, which are then added
// in tile order. Tiles do not depend on the number of threads, so neither do the sums.
constexpr int64_t kTileRows = 64, kTileColumns = 1024;

template <Kind kind, class T>
[[gnu::always_inline]] inline void backward_tile(const Sides<T>& sides, const Columns<kind, T>& columns, const T* grad,
                                                 int64_t i0, int64_t i1, int64_t j0, int64_t j1, Gradient<T>* to_rows,
                                                 GradientLanes<T>* to_columns) {
  constexpr int kLanes = kVectorLanes<T>;
  for (int64_t i = i0; i < i1; ++i) {
    const Measured<T> row = measure<kind>(sides.first[i]);
    GradientLanes<T> to_row{};
    for (int64_t j = j0; j < j1; j += kLanes) {
      T g[kLanes] = {};
      const T* source = grad + i * sides.m + j;
      if (j + kLanes <= j1) {
        for (int l = 0; l < kLanes; ++l) g[l] = source[l];
      } else {
        for (int l = 0; l < j1 - j; ++l) g[l] = source[l];
      }
      GradientLanes<T>& to_column = to_columns[(j - j0) / kLanes];
#pragma GCC ivdep
      for (int l = 0; l < kLanes; ++l) {
        const Measured<T> column = columns[j + l];
        to_row.add(l, gradient<kind>(row, column, sides.slack, g[l]));
        to_column.add(l, gradient<kind>(column, row, sides.slack, g[l]));
      }
    }
    to_rows[i - i0] = to_row.sum();
  }
}

struct CpuPairs {
  // out [n, m]
  template <Kind kind, class T>
  static void forward(const Tensor&, const Sides<T>& sides, T* out) {
    const int64_t m = sides.m;
    const Columns<kind, T> columns(sides.second, m);
    const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(m, 1));
    parallel_for(sides.n, grain, [&](int64_t begin, int64_t end) {
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t i = begin; i < end; ++i) {
          const Measured<T> a = measure<kind>(sides.first[i]);
          const Slack<T> slack = sides.slack;  // a copy: `row` might alias the original, for all the compiler knows
          T* row = out + i * m;
#pragma GCC ivdep
          for (int64_t j = 0; j < m; ++j) row[j] = overlap<kind>(a, columns[j], slack);
        }
      });
    });
  }

  // out [n]
  template <Kind kind, class T>
  static void rows(const Tensor&, const Sides<T>& sides, T* out) {
    parallel_for(sides.n, 16384, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        out[i] = overlap<kind>(measure<kind>(sides.first[i]), measure<kind>(sides.second[i]), sides.slack);
      }
    });
  }

  template <Kind kind, class T>
  static void rows_backward(const Tensor&, const Sides<T>& sides, const T* grad, Box<T>* to_first, Box<T>* to_second) {
    parallel_for(sides.n, 8192, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Measured<T> a = measure<kind>(sides.first[i]), b = measure<kind>(sides.second[i]);
        to_first[i] = gradient<kind>(a, b, sides.slack, grad[i]).corners(a.box);
        to_second[i] = gradient<kind>(b, a, sides.slack, grad[i]).corners(b.box);
      }
    });
  }

  template <Kind kind, class T>
  static void backward(const Tensor&, const Sides<T>& sides, const T* grad, Box<T>* to_first, Box<T>* to_second) {
    constexpr int kLanes = kVectorLanes<T>;
    const int64_t n = sides.n, m = sides.m, vectors = (m + kLanes - 1) / kLanes;
    const Columns<kind, T> columns(sides.second, m);
    const int64_t down = (n + kTileRows - 1) / kTileRows, across = (m + kTileColumns - 1) / kTileColumns;
    std::vector<Gradient<T>> to_rows(across * n);              // [across, n]
    std::vector<GradientLanes<T>> to_columns(down * vectors);  // [down, vectors], all zero
    parallel_for(down * across, 1, [&](int64_t begin, int64_t end) {
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t tile = begin; tile < end; ++tile) {
          const int64_t r = tile / across, c = tile % across, i0 = r * kTileRows, j0 = c * kTileColumns;
          backward_tile<kind>(sides, columns, grad, i0, std::min(n, i0 + kTileRows), j0, std::min(m, j0 + kTileColumns),
                              to_rows.data() + c * n + i0, to_columns.data() + r * vectors + j0 / kLanes);
        }
      });
    });
    for (int64_t i = 0; i < n; ++i) {
      Gradient<T> sum;
      for (int64_t c = 0; c < across; ++c) sum.add(to_rows[c * n + i]);
      to_first[i] = sum.corners(sides.first[i]);
    }
    for (int64_t j = 0; j < m; ++j) {
      Gradient<T> sum;
      for (int64_t r = 0; r < down; ++r) sum.add(to_columns[r * vectors + j / kLanes].at(int(j % kLanes)));
      to_second[j] = sum.corners(sides.second[j]);
    }
  }
};

}  // namespace
}  // namespace fastvision::box_iou

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  using namespace fastvision::box_iou;
  register_ops<CpuPairs>(m);
}
