// heatmaps_to_keypoints on the CPU: heatmaps over threads. The lines of a heatmap are resized along x once; a line of
// pixels is a sum of four of them. What the four contribute at most tells whether a line can hold the maximum, so that
// few lines are computed.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "common/boxes_of.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "masks/heatmaps_to_keypoints.h"

namespace fastvision::heatmaps_to_keypoints {
namespace {

template <class T>
struct Peak {
  T score;
  int64_t x, y;
};

// Of a heatmap with a NaN or an infinity, from which NaN arises: pixel by pixel, as bounds say nothing.
template <class T>
Peak<T> peak_among_nan(const T* heatmap, int64_t size, const std::vector<Taps<T>>& columns,
                       const std::vector<Taps<T>>& rows) {
  const int64_t width = int64_t(columns.size());
  T most = -std::numeric_limits<T>::infinity();
  int64_t where = 0;
  for (int64_t pixel = 0; pixel < width * int64_t(rows.size()); ++pixel) {
    const Taps<T>&r = rows[pixel / width], &c = columns[pixel % width];
    T value = 0;
    for (int i = 0; i < 4; ++i) {
      const T* line = heatmap + r.index[i] * size;
      T along = 0;
      for (int l = 0; l < 4; ++l) along += line[c.index[l]] * c.weight[l];
      value += along * r.weight[i];
    }
    if (precedes(value, pixel, most, where)) most = value, where = pixel;
  }
  return {most, where % width, where / width};
}

// Scratch that outlives a heatmap.
template <class T>
struct Lines {
  std::vector<T> values;     // [M, width]
  std::vector<T> low, high;  // [M] of each line
  std::vector<T> line;       // [width]
};

template <class T>
[[gnu::always_inline]] inline Peak<T> peak_of(const T* heatmap, const Axis<T>& x, const Axis<T>& y,
                                              const std::vector<Taps<T>>& columns, const std::vector<Taps<T>>& rows,
                                              Lines<T>& lines) {
  constexpr T kSlack = 32 * std::numeric_limits<T>::epsilon();
  int odd = 0;
  for (int64_t i = 0; i < x.size * y.size; ++i) odd |= !(heatmap[i] - heatmap[i] == 0);
  if (odd) return peak_among_nan(heatmap, x.size, columns, rows);
  const int64_t width = x.pixels;
  lines.values.resize(y.size * width), lines.line.resize(width);
  lines.low.resize(y.size), lines.high.resize(y.size);
  T largest = 0;
  for (int64_t j = 0; j < y.size; ++j) {
    const T* from = heatmap + j * x.size;
    T* to = lines.values.data() + j * width;
    T low = std::numeric_limits<T>::infinity(), high = -low;
    for (int64_t p = 0; p < width; ++p) {
      const Taps<T>& c = columns[p];
      const T value = from[c.index[0]] * c.weight[0] + from[c.index[1]] * c.weight[1] + from[c.index[2]] * c.weight[2] +
                      from[c.index[3]] * c.weight[3];
      to[p] = value;
      low = minimum(value, low), high = maximum(value, high);
    }
    lines.low[j] = low, lines.high[j] = high;
    largest = maximum(maximum(-low, high), largest);
  }
  Peak<T> peak{-std::numeric_limits<T>::infinity(), 0, 0};
  for (int64_t p = 0; p < y.pixels; ++p) {
    const Taps<T> r = rows[p];
    T bound = kSlack * largest;
    for (int i = 0; i < 4; ++i) bound += r.weight[i] * (r.weight[i] > 0 ? lines.high : lines.low)[r.index[i]];
    if (bound < peak.score) continue;
    const T *a = lines.values.data() + r.index[0] * width, *b = lines.values.data() + r.index[1] * width,
            *c = lines.values.data() + r.index[2] * width, *d = lines.values.data() + r.index[3] * width;
    T* line = lines.line.data();
    constexpr int kLanes = kVectorLanes<T>;
    T most[kLanes];
    for (int l = 0; l < kLanes; ++l) most[l] = -std::numeric_limits<T>::infinity();
    int64_t base = 0;
    for (; base + kLanes <= width; base += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const int64_t i = base + l;
        const T value = a[i] * r.weight[0] + b[i] * r.weight[1] + c[i] * r.weight[2] + d[i] * r.weight[3];
        line[i] = value;
        most[l] = value > most[l] ? value : most[l];
      }
    }
    T high = -std::numeric_limits<T>::infinity();
    for (int l = 0; l < kLanes; ++l) high = maximum(most[l], high);
    for (; base < width; ++base) {
      line[base] = a[base] * r.weight[0] + b[base] * r.weight[1] + c[base] * r.weight[2] + d[base] * r.weight[3];
      high = maximum(line[base], high);
    }
    if (!(high > peak.score)) continue;
    for (int64_t i = 0; i < width; ++i) {
      if (line[i] == high) {
        peak = {high, i, p};
        break;
      }
    }
  }
  return peak;
}

std::tuple<Tensor, Tensor> heatmaps_to_keypoints(const Tensor& heatmaps, const Tensor& rois) {
  validate(heatmaps, rois);
  const ScalarType type = geometry_type(heatmaps, rois);
  const Tensor h = contiguous_as(heatmaps, type), r = contiguous_as(rois, type);
  const int64_t n = h.size(0), k = h.size(1), rows = h.size(2), columns = h.size(3);
  Tensor keypoints = empty_tensor(h, {n, k, 3}), scores = empty_tensor(h, {n, k});
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const T* data = h.const_data_ptr<T>();
    T *out = keypoints.mutable_data_ptr<T>(), *score = scores.mutable_data_ptr<T>();
    parallel_workers(n, [&](const auto& next) {
      Lines<T> lines;
      std::vector<Taps<T>> x_taps, y_taps;
      for (int64_t i = next(); i < n; i = next()) {
        const Box<T> roi = boxes_of<T>(r)[i];
        const Axis<T> x(roi.x1, roi.x2, columns), y(roi.y1, roi.y2, rows);
        const bool any = x.pixels > 0 && y.pixels > 0;
        x_taps.resize(x.pixels), y_taps.resize(y.pixels);
        for (int64_t p = 0; p < x.pixels; ++p) x_taps[p] = taps_of(x, p);
        for (int64_t p = 0; p < y.pixels; ++p) y_taps[p] = taps_of(y, p);
        for (int64_t j = i * k; j < (i + 1) * k; ++j) {
          Peak<T> peak{std::numeric_limits<T>::quiet_NaN(), 0, 0};
          if (any) {
            vectorized([&]() __attribute__((always_inline)) {
              peak = peak_of(data + j * rows * columns, x, y, x_taps, y_taps, lines);
            });
          }
          out[3 * j] = any ? x.place(peak.x) : roi.x1, out[3 * j + 1] = any ? y.place(peak.y) : roi.y1;
          out[3 * j + 2] = 1;
          score[j] = peak.score;
        }
      }
    });
  });
  return {keypoints, scores};
}

}  // namespace
}  // namespace fastvision::heatmaps_to_keypoints

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("heatmaps_to_keypoints", TORCH_BOX(&fastvision::heatmaps_to_keypoints::heatmaps_to_keypoints));
}
