// roi_align on the CPU: out = A_y F A_x^T, vectorised over channels.
//
// channels_last maps are read in place, one thread a roi. Other maps go through blocks of channels: a block of planes
// is transposed to [pixels, lanes] once, every roi of the image pools from it, and the next block follows. The backward
// is the transpose of that: one thread owns a block of channels of an image and adds its rois in order, so that sums
// never depend on the number of threads.
#include <torch/csrc/stable/library.h>

#include <memory>

#include "common/dispatch.h"
#include "roi/blocks.h"
#include "roi/channel_block.h"
#include "roi/roi_align.h"
#include "roi/roi_groups.h"
#include "roi/taps.h"

namespace fastvision::roi_align {
namespace {

using roi::ChannelBlock;
using roi::RoiGroups;
using roi::RoiTaps;
using roi::Window;

template <class T>
void build_taps(const Params& p, const T* roi, RoiTaps<T>& taps) {
  taps.y.build(rows_of(p, roi), p.pooled_height);
  taps.x.build(columns_of(p, roi), p.pooled_width);
}

template <class T>
std::vector<RoiTaps<T>> all_taps(const Params& p, const T* rois, int64_t count) {
  std::vector<RoiTaps<T>> taps(count);
  parallel_for(count, 64, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) build_taps(p, rois + 5 * k, taps[k]);
  });
  return taps;
}

// Columns of the roi that has most of them.
template <class T>
size_t widest(const std::vector<RoiTaps<T>>& taps) {
  size_t columns = 1;
  for (const RoiTaps<T>& t : taps) columns = std::max(columns, t.x.columns.size());
  return columns;
}

// The pixels that the rois of an image read.
template <class T>
Window window_of(const std::vector<RoiTaps<T>>& taps, const RoiGroups& groups, int64_t image) {
  Window window;
  for (int64_t r = groups.offsets[image]; r < groups.offsets[image + 1]; ++r) {
    const RoiTaps<T>& t = taps[groups.order[r]];
    if (!t.empty()) window.include(t.y.low, t.y.high, t.x.low, t.x.high);
  }
  return window;
}

constexpr int32_t kRowsAtOnce = 4;

// Pools one roi for `vectors` vectors of channels. map points at pixel (0, 0); steps are in elements of S.
// scratch: [distinct columns, vectors] sums of rows. emit(bin, vector, sum).
template <class T, class S, class Emit>
[[gnu::always_inline]] inline void pool(const S* map, int64_t row_step, int64_t pixel_step, const RoiTaps<T>& taps,
                                        const Params& p, int64_t vectors, Vector<T>* scratch, const Emit& emit) {
  const int64_t columns = int64_t(taps.x.columns.size());
  for (int64_t i = 0; i < p.pooled_height; ++i) {
    const int32_t first = taps.y.offsets[i], last = taps.y.offsets[i + 1];
    // a few rows at a time: each is read front to back, and the sums stay in cache
    for (int32_t t0 = first; t0 < last || t0 == first; t0 += kRowsAtOnce) {
      const int32_t t1 = std::min(last, t0 + kRowsAtOnce);
      for (int64_t c = 0; c < columns; ++c) {
        const S* column = map + taps.x.columns[c] * pixel_step;
        for (int64_t v = 0; v < vectors; ++v) {
          Vector<T> sum;
          if (t0 > first) sum = scratch[c * vectors + v];
          for (int32_t t = t0; t < t1; ++t) {
            sum.add(taps.y.weights[t], Vector<T>::load(column + taps.y.pixels[t] * row_step + v * kVectorLanes<T>));
          }
          scratch[c * vectors + v] = sum;
        }
      }
    }
    for (int64_t j = 0; j < p.pooled_width; ++j) {
      for (int64_t v = 0; v < vectors; ++v) {
        Vector<T> sum;
        for (int32_t t = taps.x.offsets[j]; t < taps.x.offsets[j + 1]; ++t) {
          sum.add(taps.x.weights[t], scratch[taps.x.slots[t] * vectors + v]);
        }
        emit(i * p.pooled_width + j, v, sum);
      }
    }
  }
}

// The transpose of pool: adds the gradient of one roi to a block map of vectors.
template <class T>
[[gnu::always_inline]] inline void unpool(const ChannelBlock<T>& map, const RoiTaps<T>& taps, int64_t bins_y,
                                          int64_t bins_x, const Vector<T>* grad, Vector<T>* scratch) {
  const int64_t columns = int64_t(taps.x.columns.size());
  for (int64_t i = 0; i < bins_y; ++i) {
    std::fill_n(scratch, columns, Vector<T>{});
    for (int64_t j = 0; j < bins_x; ++j) {
      for (int32_t t = taps.x.offsets[j]; t < taps.x.offsets[j + 1]; ++t) {
        scratch[taps.x.slots[t]].add(taps.x.weights[t], grad[i * bins_x + j]);
      }
    }
    for (int32_t t = taps.y.offsets[i]; t < taps.y.offsets[i + 1]; ++t) {
      const T weight = taps.y.weights[t];
      Vector<T>* row = map.pixel(taps.y.pixels[t], 0);
      for (int64_t c = 0; c < columns; ++c) row[taps.x.columns[c]].add(weight, scratch[c]);
    }
  }
}

// channels_last in and out: one thread a roi, all channels.
template <class T, class S>
void forward_channels_last(const Params& p, const Tensor& input, const T* rois, int64_t count, const RoiGroups& groups,
                           Tensor& output) {
  const Strides step = strides_of(input);
  const S* map = input.const_data_ptr<S>();
  S* out = output.mutable_data_ptr<S>();
  constexpr int64_t kLanes = kVectorLanes<T>;
  const int64_t bins = p.pooled_height * p.pooled_width, vectors = p.channels / kLanes;
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    RoiTaps<T> taps;
    Buffer<Vector<T>> scratch;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t k = groups.order[r];
      build_taps(p, rois + 5 * k, taps);
      const S* image = map + roi::image_of(p.batch, rois + 5 * k) * step.n;
      S* pooled = out + k * bins * p.channels;
      if (taps.empty()) {
        std::fill_n(pooled, bins * p.channels, S(0));
        continue;
      }
      scratch.reserve(taps.x.columns.size() * vectors);
      vectorized([&]() __attribute__((always_inline)) {
        pool<T>(image, step.h, step.w, taps, p, vectors, scratch.data(),
                [&](int64_t bin, int64_t v, const Vector<T>& sum)
                    __attribute__((always_inline)) { sum.store(pooled + bin * p.channels + v * kLanes); });
      });
    }
  });
}

template <class T>
struct BlockScratch {
  ChannelBlock<T> map;        // the pixels that the rois of an image read
  Buffer<Vector<T>> columns;  // sums of rows, one for each distinct column of a roi
  Buffer<Vector<T>> pooled;   // [P * Q]
};

// body(image, first channel, channels, scratch) for every image and every vector of its channels.
template <class T, class Body>
void for_each_block(const Params& p, const RoiGroups& groups, const std::vector<RoiTaps<T>>& taps, const Body& body) {
  constexpr int64_t kLanes = kVectorLanes<T>;
  const int64_t blocks = (p.channels + kLanes - 1) / kLanes;
  const size_t columns = widest(taps);
  std::vector<Window> windows(p.batch);
  for (int64_t n = 0; n < p.batch; ++n) windows[n] = window_of(taps, groups, n);
  parallel_for(p.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    BlockScratch<T> scratch;
    scratch.columns.reserve(columns);
    scratch.pooled.reserve(p.pooled_height * p.pooled_width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / blocks, c0 = task % blocks * kLanes;
      scratch.map.reset(windows[n]);
      vectorized([&]() __attribute__((always_inline)) { body(n, c0, std::min(kLanes, p.channels - c0), scratch); });
    }
  });
}

template <class T, class S>
void forward_blocks(const Params& p, const Tensor& input, const T* rois, int64_t count, const RoiGroups& groups,
                    Tensor& output) {
  const Strides step = strides_of(input), out_step = strides_of(output);
  const S* map = input.const_data_ptr<S>();
  S* out = output.mutable_data_ptr<S>();
  const auto taps = all_taps(p, rois, count);
  const int64_t bins = p.pooled_height * p.pooled_width;
  for_each_block(p, groups, taps,
                 [&](int64_t n, int64_t c0, int64_t lanes, BlockScratch<T>& scratch) __attribute__((always_inline)) {
                   const ChannelBlock<T>& block = scratch.map;
                   Vector<T>* pooled = scratch.pooled.data();
                   scratch.map.load(map + n * step.n + c0 * step.c, step, lanes);
                   for (int64_t r = groups.offsets[n]; r < groups.offsets[n + 1]; ++r) {
                     const int64_t k = groups.order[r];
                     if (taps[k].empty()) {
                       std::fill_n(pooled, bins, Vector<T>{});
                     } else {
                       pool<T>(block.pixel(0, 0)->values(), block.row_step() * kVectorLanes<T>, kVectorLanes<T>,
                               taps[k], p, 1, scratch.columns.data(),
                               [&](int64_t bin, int64_t, const Vector<T>& sum)
                                   __attribute__((always_inline)) { pooled[bin] = sum; });
                     }
                     roi::store_lanes<T>(pooled, bins, lanes, out + k * out_step.n + c0 * out_step.c, out_step.c,
                                         out_step.w);
                   }
                 });
}

Tensor forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
               int64_t pooled_width, int64_t sampling_ratio, bool aligned) {
  constexpr const char* kOp = "roi_align";
  const Params p =
      forward_params(kOp, input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned);
  const int64_t count = rois.size(0);
  const bool channels_last = is_channels_last(input);
  Tensor output = empty_map(input, count, p.channels, pooled_height, pooled_width, channels_last);
  advise_huge_pages(output);
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(input.scalar_type()));
    const T* data = plain.const_data_ptr<T>();
    const RoiGroups groups = roi::groups_by_image(kOp, p.batch, data, count);
    if (output.numel() == 0) return;
    if (input.numel() == 0) {
      torch::stable::zero_(output);
    } else if (channels_last && p.channels % kVectorLanes<T> == 0) {
      forward_channels_last<T, S>(p, input, data, count, groups, output);
    } else {
      forward_blocks<T, S>(p, input, data, count, groups, output);
    }
  });
  return output;
}

template <class T, class S>
void backward_blocks(const Params& p, const Tensor& grad, const T* rois, int64_t count, const RoiGroups& groups,
                     Tensor& output) {
  const Strides step = strides_of(grad), out_step = strides_of(output);
  const S* grads = grad.const_data_ptr<S>();
  S* out = output.mutable_data_ptr<S>();
  const auto taps = all_taps(p, rois, count);
  for_each_block(p, groups, taps,
                 [&](int64_t n, int64_t c0, int64_t lanes, BlockScratch<T>& scratch) __attribute__((always_inline)) {
                   Vector<T>* pooled = scratch.pooled.data();
                   scratch.map.clear();
                   for (int64_t r = groups.offsets[n]; r < groups.offsets[n + 1]; ++r) {
                     const int64_t k = groups.order[r];
                     if (taps[k].empty()) continue;
                     const S* source = grads + k * step.n + c0 * step.c;
                     for (int64_t i = 0; i < p.pooled_height; ++i) {
                       roi::load_lanes<T>(source + i * step.h, step.c, step.w, p.pooled_width, lanes,
                                          pooled + i * p.pooled_width);
                     }
                     unpool<T>(scratch.map, taps[k], p.pooled_height, p.pooled_width, pooled, scratch.columns.data());
                   }
                   scratch.map.store(out + n * out_step.n + c0 * out_step.c, out_step, p.height, p.width, lanes);
                 });
}

Tensor backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch, int64_t height,
                int64_t width, int64_t sampling_ratio, bool aligned, bool channels_last) {
  constexpr const char* kOp = "roi_align_backward";
  const Params p = backward_params(kOp, grad, rois, spatial_scale, batch, height, width, sampling_ratio, aligned);
  Tensor output = empty_map(grad, batch, p.channels, height, width, channels_last);
  advise_huge_pages(output);
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(grad.scalar_type()));
    const T* data = plain.const_data_ptr<T>();
    const RoiGroups groups = roi::groups_by_image(kOp, p.batch, data, rois.size(0));
    if (rois.size(0) == 0) {
      torch::stable::zero_(output);
      return;
    }
    if (output.numel() > 0) backward_blocks<T, S>(p, grad, data, rois.size(0), groups, output);
  });
  return output;
}

}  // namespace
}  // namespace fastvision::roi_align

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&fastvision::roi_align::forward));
  m.impl("roi_align_backward", TORCH_BOX(&fastvision::roi_align::backward));
}
