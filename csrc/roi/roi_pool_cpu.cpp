// roi_pool on the CPU: for each row of bins the largest value of each column, then for each bin the largest of its
// columns, over channels side by side.
//
// channels_last maps are read in place, one thread a roi; others in blocks of channels, transposed once for all rois of
// an image. In the backward one thread owns the planes it writes and adds the rois of an image in order.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "roi/blocks.h"
#include "roi/channel_block.h"
#include "roi/roi_groups.h"
#include "roi/roi_pool.h"

namespace fastvision::roi_pool {
namespace {

using roi::Block;
using roi::PixelRange;
using roi::RoiGroups;

// Plain loops over lanes, not Vector: the compiler turns their comparisons into masks, but those of vector types of a
// width that the baseline lacks into scalars.

// Where `value` takes the place of `largest`: as in torch's max pooling NaN is larger than any number.
template <class T>
[[gnu::always_inline]] inline bool exceeds(T value, T largest) {
  return !(value <= largest) & (largest == largest);
}

template <class T>
[[gnu::always_inline]] inline bool ties(T a, T b) {
  return (a == b) | ((a != a) & (b != b));
}

// The largest of rows [rows.low, rows.high) at each of `count` values of a row, and the index of the row's first pixel;
// of equal values the first.
template <class T>
[[gnu::always_inline]] inline void max_of_rows(const T* map, int64_t row_step, const PixelRange& rows, int64_t width,
                                               int64_t count, T* __restrict values, int32_t* __restrict places) {
  std::copy_n(map + rows.low * row_step, count, values);
  std::fill_n(places, count, int32_t(rows.low * width));
  for (int64_t y = rows.low + 1; y < rows.high; ++y) {
    const T* __restrict row = map + y * row_step;
    const int32_t place = int32_t(y * width);
    for (int64_t e = 0; e < count; ++e) {
      const bool larger = exceeds(row[e], values[e]);
      values[e] = larger ? row[e] : values[e];
      places[e] = larger ? place : places[e];
    }
  }
}

// The same over columns [low, high), whose values and places are [columns, lanes]; of equal values, NaN
// among them, the first in the order of rows and columns.
template <class T>
[[gnu::always_inline]] inline void max_of_columns(const T* __restrict values, const int32_t* __restrict places,
                                                  const PixelRange& columns, int64_t lanes, T* __restrict largest,
                                                  int32_t* __restrict found) {
  for (int64_t x = columns.low; x < columns.high; ++x) {
    for (int64_t l = 0; l < lanes; ++l) {
      const T value = values[(x - columns.low) * lanes + l];
      const int32_t place = places[(x - columns.low) * lanes + l] + int32_t(x);
      const bool larger =
          (x == columns.low) | exceeds(value, largest[l]) | (ties(value, largest[l]) & (place < found[l]));
      largest[l] = larger ? value : largest[l];
      found[l] = larger ? place : found[l];
    }
  }
}

template <class T>
struct Scratch {
  roi::ChannelBlock<T> map;
  Buffer<T> values, pooled;       // [columns of the roi, lanes], [P * Q, lanes]
  Buffer<int32_t> places, found;  // likewise

  void reserve(const Params& p, int64_t columns, int64_t lanes) {
    const size_t bins = size_t(p.pooled_height * p.pooled_width);
    values.reserve(size_t(columns * lanes)), places.reserve(size_t(columns * lanes));
    pooled.reserve(bins * lanes), found.reserve(bins * lanes);
  }
};

// map: pixel (0, 0) of `lanes` interleaved channels. largest, found [P * Q, lanes]; 0 and -1 for bins without a pixel.
template <class T>
[[gnu::always_inline]] inline void pool(const Params& p, const T* roi, const T* map, int64_t row_step, int64_t lanes,
                                        Scratch<T>& scratch, T* largest, int32_t* found) {
  const roi::PooledAxis<T> y = rows_of(p, roi), x = columns_of(p, roi);
  const PixelRange all = x.extent();
  for (int64_t i = 0; i < y.bins; ++i) {
    const PixelRange rows = y[i];
    const bool any = rows.low < rows.high && all.low < all.high;
    if (any) {
      max_of_rows(map + all.low * lanes, row_step, rows, p.width, (all.high - all.low) * lanes, scratch.values.data(),
                  scratch.places.data());
    }
    for (int64_t j = 0; j < x.bins; ++j, largest += lanes, found += lanes) {
      const PixelRange columns = x[j];
      if (any && columns.low < columns.high) {
        const int64_t first = (columns.low - all.low) * lanes;
        max_of_columns(scratch.values.data() + first, scratch.places.data() + first, columns, lanes, largest, found);
      } else {
        std::fill_n(largest, lanes, T(0)), std::fill_n(found, lanes, -1);
      }
    }
  }
}

// In and out interleaved, so no copy is needed.
template <class T>
void pool_channels_last(const Params& p, const Tensor& input, const T* rois, const RoiGroups& groups, Tensor& output,
                        Tensor& argmax) {
  const Strides step = strides_of(input);
  const int64_t values = p.pooled_height * p.pooled_width * p.channels;
  const T* map = input.const_data_ptr<T>();
  T* out = output.mutable_data_ptr<T>();
  int32_t* found = argmax.mutable_data_ptr<int32_t>();
  const int64_t count = output.size(0);
  parallel_workers(count, [&](const auto& next) {
    Scratch<T> scratch;
    scratch.reserve(p, p.width, p.channels);
    for (int64_t r = next(); r < count; r = next()) {
      const int64_t k = groups.order[r];
      const T* image = map + roi::image_of(p.batch, rois + 5 * k) * step.n;
      vectorized([&]() __attribute__((always_inline)) {
        pool(p, rois + 5 * k, image, step.h, p.channels, scratch, out + k * values, found + k * values);
      });
    }
  });
}

template <class T>
roi::Window window_of(const Params& p, const T* rois, const RoiGroups& groups, int64_t image) {
  roi::Window window;
  const auto [begin, end] = groups.range(image);
  for (int64_t r = begin; r < end; ++r) {
    const T* roi = rois + 5 * groups.order[r];
    const PixelRange y = rows_of(p, roi).extent(), x = columns_of(p, roi).extent();
    if (y.low < y.high && x.low < x.high) window.include(y.low, y.high - 1, x.low, x.high - 1);
  }
  return window;
}

// bins [count, kLanes] -> the bins of one roi in `target`, both of its formats
template <class T, class V, class S>
[[gnu::always_inline]] inline void store(const V* bins, int64_t count, int64_t lanes, S* target, const Strides& step) {
  if (step.w == 1) return transpose(bins, kVectorLanes<T>, count, lanes, target, step.c);
  for (int64_t b = 0; b < count; ++b) {
    for (int64_t l = 0; l < lanes; ++l) {
      target[b * step.w + l * step.c] = static_cast<S>(bins[b * kVectorLanes<T> + l]);
    }
  }
}

template <class T, class S>
void pool_blocks(const Params& p, const Tensor& input, const T* rois, const RoiGroups& groups, Tensor& output,
                 Tensor& argmax) {
  const Strides step = strides_of(input), out_step = strides_of(output);
  const int64_t bins = p.pooled_height * p.pooled_width;
  const S* map = input.const_data_ptr<S>();
  S* out = output.mutable_data_ptr<S>();
  int32_t* found = argmax.mutable_data_ptr<int32_t>();
  std::vector<roi::Window> windows(p.batch);
  for (int64_t n = 0; n < p.batch; ++n) windows[n] = window_of(p, rois, groups, n);
  const int64_t parts = roi::parts_for(p.batch, p.channels, kVectorLanes<T>);
  constexpr int64_t kLanes = kVectorLanes<T>;
  roi::for_each_block<Scratch<T>>(
      p.batch, p.channels, kLanes, parts,
      [&](auto, const Block& block, Scratch<T>& scratch) __attribute__((always_inline)) {
        const auto [begin, end] = groups.range(block.map, block.part, block.parts);
        if (begin == end) return;
        scratch.map.reset(windows[block.map]);
        scratch.map.load(map + block.map * step.n + block.channel * step.c, step, block.lanes);
        scratch.reserve(p, windows[block.map].columns(), kLanes);
        for (int64_t r = begin; r < end; ++r) {
          const int64_t k = groups.order[r], at = k * out_step.n + block.channel * out_step.c;
          pool(p, rois + 5 * k, scratch.map.pixel(0, 0)->values(), scratch.map.row_step() * kLanes, kLanes, scratch,
               scratch.pooled.data(), scratch.found.data());
          store<T>(scratch.pooled.data(), bins, block.lanes, out + at, out_step);
          store<T>(scratch.found.data(), bins, block.lanes, found + at, out_step);
        }
      });
}

std::tuple<Tensor, Tensor> forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                                   int64_t pooled_width, bool exact_bins) {
  constexpr const char* kOp = "roi_pool";
  const Params p = forward_params(kOp, input, rois, spatial_scale, pooled_height, pooled_width, exact_bins);
  const bool channels_last = is_channels_last(input);
  auto [output, argmax] = empty_outputs(p, input, rois.size(0));
  dispatch_floating(kOp, input.scalar_type(), [&, &output = output, &argmax = argmax](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(input.scalar_type()));
    const T* data = plain.const_data_ptr<T>();
    const RoiGroups groups = roi::groups_by_image(kOp, p.batch, data, rois.size(0));
    if (output.numel() == 0) return;
    if constexpr (std::is_same_v<S, T>) {
      if (channels_last) return pool_channels_last<T>(p, input, data, groups, output, argmax);
    }
    pool_blocks<T, S>(p, input, data, groups, output, argmax);
  });
  return {output, argmax};
}

// Adds each bin's gradient to the pixel it came from. Planes of `lanes` channels side by side: one for planes that are
// contiguous, a vector for channels_last, whose planes are interleaved.
template <class T, class S>
void scatter(const Params& p, const Tensor& grad, const Tensor& argmax, const RoiGroups& groups, bool channels_last,
             Tensor& output) {
  const Strides step = strides_of(grad), place_step = strides_of(argmax), out_step = strides_of(output);
  const S* grads = grad.const_data_ptr<S>();
  const int32_t* places = argmax.const_data_ptr<int32_t>();
  S* out = output.mutable_data_ptr<S>();
  const int64_t lanes = channels_last ? kVectorLanes<T> : 1, pixels = p.height * p.width;
  roi::for_each_block<Buffer<T>>(
      p.batch, p.channels, lanes, 1, [&](auto, const Block& block, Buffer<T>& sums) __attribute__((always_inline)) {
        sums.reserve(size_t(pixels * lanes));
        std::fill_n(sums.data(), pixels * lanes, T(0));
        const auto [begin, end] = groups.range(block.map);
        for (int64_t r = begin; r < end; ++r) {
          const int64_t k = groups.order[r];
          const S* g = grads + k * step.n + block.channel * step.c;
          const int32_t* place = places + k * place_step.n + block.channel * place_step.c;
          for (int64_t i = 0; i < p.pooled_height; ++i) {
            for (int64_t j = 0; j < p.pooled_width; ++j) {
              for (int64_t l = 0; l < block.lanes; ++l) {
                const int64_t pixel = place[l * place_step.c + i * place_step.h + j * place_step.w];
                if (pixel < 0 || pixel >= pixels) continue;
                sums[size_t(pixel * lanes + l)] += static_cast<T>(g[l * step.c + i * step.h + j * step.w]);
              }
            }
          }
        }
        S* target = out + block.map * out_step.n + block.channel * out_step.c;
        if (lanes == 1) {
          for (int64_t x = 0; x < pixels; ++x) target[x] = static_cast<S>(sums[size_t(x)]);
        } else {
          for (int64_t x = 0; x < pixels; ++x) {
            for (int64_t l = 0; l < block.lanes; ++l) {
              target[x * p.channels + l] = static_cast<S>(sums[size_t(x * lanes + l)]);
            }
          }
        }
      });
}

Tensor backward(const Tensor& grad, const Tensor& rois, const Tensor& argmax, double spatial_scale, int64_t batch,
                int64_t height, int64_t width, bool exact_bins, bool channels_last) {
  constexpr const char* kOp = "roi_pool_backward";
  const Params p = backward_params(kOp, grad, rois, argmax, spatial_scale, batch, height, width, exact_bins);
  Tensor output = empty_map(grad, batch, p.channels, height, width, channels_last);
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(grad.scalar_type()));
    const RoiGroups groups = roi::groups_by_image(kOp, p.batch, plain.const_data_ptr<T>(), rois.size(0));
    if (rois.size(0) == 0) {
      clear_tensor(output);
    } else {
      scatter<T, S>(p, grad, argmax, groups, is_channels_last(output), output);
    }
  });
  return output;
}

}  // namespace
}  // namespace fastvision::roi_pool

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("roi_pool", TORCH_BOX(&fastvision::roi_pool::forward));
  m.impl("roi_pool_backward", TORCH_BOX(&fastvision::roi_pool::backward));
}
