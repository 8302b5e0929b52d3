// Position-sensitive pooling on the CPU.
//
// A task is one row of bins of one output channel of one image: Q planes of the input, few enough to stay in cache
// while every roi of the image reads them (forward) or adds to them, in order (backward). No other task touches those
// planes, so gradients never depend on the number of threads. A bin has some ten pixels, of a plane of its own: too few
// for vectors, and with the taps of all rois made beforehand there is nothing else to do for them.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "roi/position_sensitive.h"
#include "roi/roi_groups.h"

namespace fastvision::position_sensitive {

template <class T>
struct Tap {
  int64_t pixel;
  T weight;
};

template <class T>
struct Span {
  const Tap<T>*first, *last;

  const Tap<T>* begin() const { return first; }
  const Tap<T>* end() const { return last; }
  bool empty() const { return first == last; }
};

// Taps of some rois along one axis.
template <class T>
class AxisTaps {
 public:
  template <class Axis>
  void append(const Axis& axis, int64_t bins) {
    bins_ = bins;
    for (int64_t b = 0; b < bins; ++b) {
      for_each_tap(axis, b, [&](int64_t pixel, T weight) { taps_.push_back({pixel, weight}); });
      offsets_.push_back(taps_.size());
    }
  }

  Span<T> operator()(int64_t roi, int64_t bin) const {
    const size_t* offset = offsets_.data() + roi * bins_ + bin;
    return {taps_.data() + offset[0], taps_.data() + offset[1]};
  }

 private:
  int64_t bins_ = 0;
  std::vector<size_t> offsets_{0};  // bin b of roi r owns [offsets[r * bins + b], offsets[r * bins + b + 1])
  std::vector<Tap<T>> taps_;
};

// Taps of all rois, in the order of the groups; made in chunks, a thread each.
template <class T>
class Taps {
 public:
  // append(rows, columns, roi) adds the taps of a roi along both axes
  template <class Append>
  Taps(const T* rois, const roi::RoiGroups& groups, const Append& append)
      : chunks_((groups.order.size() + kChunk - 1) / kChunk) {
    const int64_t count = int64_t(groups.order.size());
    parallel_for(int64_t(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin * kChunk; r < std::min(count, end * kChunk); ++r) {
        const T* roi = rois + 5 * groups.order[r];
        append(chunks_[r / kChunk].rows, chunks_[r / kChunk].columns, roi);
      }
    });
  }

  Span<T> rows(int64_t r, int64_t i) const { return chunks_[r / kChunk].rows(r % kChunk, i); }
  Span<T> columns(int64_t r, int64_t j) const { return chunks_[r / kChunk].columns(r % kChunk, j); }

 private:
  static constexpr int64_t kChunk = 32;

  struct Chunk {
    AxisTaps<T> rows, columns;
  };
  std::vector<Chunk> chunks_;
};

// body(image, channel, row of bins)
template <class Body>
void for_each_row_of_bins(const Params& p, const std::vector<int64_t>& images, const Body& body) {
  const int64_t rows = p.outputs * p.pooled_height;
  parallel_for(int64_t(images.size()) * rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      body(images[task / rows], task % rows / p.pooled_height, task % p.pooled_height);
    }
  });
}

template <class T>
void clear(T* data, int64_t count) {
  parallel_for(count, int64_t(1) << 16, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, T(0)); });
}

template <class Sampler, class T>
Taps<T> taps_of(const Params& p, const T* rois, const roi::RoiGroups& groups) {
  return Taps<T>(rois, groups, [&](AxisTaps<T>& rows, AxisTaps<T>& columns, const T* roi) {
    rows.append(Sampler::rows(p, roi), p.pooled_height);
    columns.append(Sampler::columns(p, roi), p.pooled_width);
  });
}

template <class T, class S>
void pool_rows_of_bins(const Params& p, const Taps<T>& taps, const roi::RoiGroups& groups, const Tensor& input,
                       const Tensor& output) {
  const Strides step = strides_of(input), out_step = strides_of(output);
  const S* map = input.const_data_ptr<S>();
  S* out = output.mutable_data_ptr<S>();
  std::vector<int64_t> images;
  for (int64_t n = 0; n < p.batch; ++n) {
    if (groups.offsets[n] < groups.offsets[n + 1]) images.push_back(n);
  }
  for_each_row_of_bins(p, images, [&](int64_t n, int64_t c, int64_t i) {
    const S* planes = map + n * step.n + (c * p.bins() + i * p.pooled_width) * step.c;
    for (int64_t r = groups.offsets[n]; r < groups.offsets[n + 1]; ++r) {
      S* pooled = out + groups.order[r] * out_step.n + c * out_step.c + i * out_step.h;
      const Span<T> rows = taps.rows(r, i);
      for (int64_t j = 0; j < p.pooled_width; ++j) {
        const S* plane = planes + j * step.c;
        const Span<T> columns = taps.columns(r, j);
        T sum = 0;
        for (const Tap<T>& y : rows) {
          const S* row = plane + y.pixel * step.h;
          T row_sum = 0;
          for (const Tap<T>& x : columns) row_sum += x.weight * static_cast<T>(row[x.pixel * step.w]);
          sum += y.weight * row_sum;
        }
        pooled[j * out_step.w] = static_cast<S>(sum);
      }
    }
  });
}

// sums [batch, channels * P * Q, height, width], dense: the gradients of every bin, added in the order of the groups
template <class T, class S>
void add_gradients(const Params& p, const Taps<T>& taps, const roi::RoiGroups& groups, const Tensor& grad,
                   const Tensor& sums, bool channels_last) {
  const Strides step = strides_of(grad), sum_step = strides_of(sums);
  const S* grads = grad.const_data_ptr<S>();
  T* data = sums.mutable_data_ptr<T>();
  const int64_t plane_size = p.height * p.width;
  // planes of their own are cleared by their task, while they are in cache; planes that interleave, all at once
  if (channels_last) clear(data, sums.numel());
  std::vector<int64_t> images(p.batch);
  std::iota(images.begin(), images.end(), 0);
  for_each_row_of_bins(p, images, [&](int64_t n, int64_t c, int64_t i) {
    T* planes = data + n * sum_step.n + (c * p.bins() + i * p.pooled_width) * sum_step.c;
    if (!channels_last) std::fill_n(planes, p.pooled_width * plane_size, T(0));
    for (int64_t r = groups.offsets[n]; r < groups.offsets[n + 1]; ++r) {
      const S* bins = grads + groups.order[r] * step.n + c * step.c + i * step.h;
      const Span<T> rows = taps.rows(r, i);
      for (int64_t j = 0; j < p.pooled_width; ++j) {
        T* plane = planes + j * sum_step.c;
        const T bin = static_cast<T>(bins[j * step.w]);
        const Span<T> columns = taps.columns(r, j);
        for (const Tap<T>& y : rows) {
          T* row = plane + y.pixel * sum_step.h;
          const T row_bin = y.weight * bin;
          for (const Tap<T>& x : columns) row[x.pixel * sum_step.w] += x.weight * row_bin;
        }
      }
    }
  });
}

struct Cpu {
  template <class Sampler>
  static void pool(const char* op, const Params& p, const Tensor& input, const Tensor& plain, Tensor& output) {
    dispatch_floating(op, input.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      const T* rois = plain.const_data_ptr<T>();
      const roi::RoiGroups groups = roi::groups_by_image(op, p.batch, rois, plain.size(0));
      if (output.numel() == 0) return;
      pool_rows_of_bins<T, S>(p, taps_of<Sampler>(p, rois, groups), groups, input, output);
    });
  }

  template <class Sampler>
  static void unpool(const char* op, const Params& p, const Tensor& grad, const Tensor& plain, Tensor& map) {
    dispatch_floating(op, grad.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      const T* rois = plain.const_data_ptr<T>();
      const roi::RoiGroups groups = roi::groups_by_image(op, p.batch, rois, plain.size(0));
      if (map.numel() == 0) return;
      const bool channels_last = is_channels_last(map);
      // half types: summed in a float map, rounded once
      Tensor sums = map;
      if constexpr (!std::is_same_v<S, T>) {
        sums = empty_map(map, p.batch, p.outputs * p.bins(), p.height, p.width, channels_last, ScalarType::Float);
      }
      add_gradients<T, S>(p, taps_of<Sampler>(p, rois, groups), groups, grad, sums, channels_last);
      if constexpr (std::is_same_v<S, T>) {
        map = sums;
      } else {
        torch::stable::copy_(map, sums);
      }
    });
  }
};

}  // namespace fastvision::position_sensitive
