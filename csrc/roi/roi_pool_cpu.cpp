// roi_pool on the CPU: the largest of each column of a row of bins first, then of the columns of each bin, vectorised
// over channels.
//
// channels_last maps are read in place, one thread a roi; others in blocks of channels, transposed once for all rois of
// an image. In the backward one thread owns the planes it writes and adds the rois of an image in order.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "roi/blocks.h"
#include "roi/channel_block.h"
#include "roi/roi_groups.h"
#include "roi/roi_pool.h"
#include "roi/separable.h"

namespace fastvision::roi_pool {
namespace {

using roi::Block;
using roi::PixelRange;
using roi::RoiGroups;
using roi::VectorMap;

// Largest values and where they are in the plane, for one vector of channels. As in torch's max pooling NaN is larger
// than any number; of equal values the first in the order of rows and columns counts.
template <class T>
struct Largest {
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Vector<T> value;
  Vector<Index> index;

  [[gnu::always_inline]] static Largest at(const Vector<T>& value, int64_t index) {
    Largest one{value, {}};
    one.index.raw += Index(index);
    return one;
  }

  // of two that come in order
  [[gnu::always_inline]] void take_later(const Largest& other) {
    choose(~(other.value.raw <= value.raw) & (value.raw == value.raw), other);
  }
  [[gnu::always_inline]] void take(const Largest& other) {
    const auto larger = ~(other.value.raw <= value.raw) & (value.raw == value.raw);
    choose(larger | ((other.value.raw == value.raw) & (other.index.raw < index.raw)), other);
  }

 private:
  template <class Mask>
  [[gnu::always_inline]] void choose(const Mask& mask, const Largest& other) {
    value.raw = mask ? other.value.raw : value.raw;
    index.raw = mask ? other.index.raw : index.raw;
  }
};

template <class T>
struct Axes {
  roi::PooledAxis<T> y, x;
  Axes(const Params& p, const T* roi) : y(rows_of(p, roi)), x(columns_of(p, roi)) {}
};

// columns: scratch for [width of the roi, vectors]. emit(bin, vector, largest), not called for empty bins;
// empty(bin) is.
template <class T, class S, class Emit, class Empty>
[[gnu::always_inline]] inline void pool(const VectorMap<S>& map, const Axes<T>& axes, Largest<T>* columns,
                                        const Emit& emit, const Empty& empty) {
  const PixelRange all = axes.x.extent();
  const int64_t vectors = map.vectors;
  for (int64_t i = 0; i < axes.y.bins; ++i) {
    const PixelRange rows = axes.y[i];
    if (rows.low < rows.high) {
      for (int64_t x = all.low; x < all.high; ++x) {
        const S* pixel = map.data + x * map.pixel_step;
        for (int64_t v = 0; v < vectors; ++v) {
          const auto at = [&](int64_t y) {
            return Largest<T>::at(Vector<T>::load(pixel + y * map.row_step + v * kVectorLanes<T>), y * axes.x.size + x);
          };
          Largest<T> largest = at(rows.low);
          for (int64_t y = rows.low + 1; y < rows.high; ++y) largest.take_later(at(y));
          columns[(x - all.low) * vectors + v] = largest;
        }
      }
    }
    for (int64_t j = 0; j < axes.x.bins; ++j) {
      const PixelRange range = axes.x[j];
      if (rows.low >= rows.high || range.low >= range.high) {
        empty(i * axes.x.bins + j);
        continue;
      }
      const Largest<T>* column = columns + (range.low - all.low) * vectors;
      for (int64_t v = 0; v < vectors; ++v) {
        Largest<T> largest = column[v];
        for (int64_t x = 1; x < range.high - range.low; ++x) largest.take(column[x * vectors + v]);
        emit(i * axes.x.bins + j, v, largest);
      }
    }
  }
}

template <class T, class S>
void pool_channels_last(const Params& p, const Tensor& input, const T* rois, const RoiGroups& groups, Tensor& output,
                        Tensor& argmax) {
  const Strides step = strides_of(input);
  const int64_t bins = p.pooled_height * p.pooled_width, vectors = p.channels / kVectorLanes<T>;
  const S* map = input.const_data_ptr<S>();
  S* out = output.mutable_data_ptr<S>();
  int32_t* indices = argmax.mutable_data_ptr<int32_t>();
  const int64_t count = output.size(0);
  parallel_workers(count, [&](const auto& next) {
    Buffer<Largest<T>> columns(size_t(p.width * vectors));
    for (int64_t r = next(); r < count; r = next()) {
      const int64_t k = groups.order[r];
      S* pooled = out + k * bins * p.channels;
      int32_t* places = indices + k * bins * p.channels;
      const VectorMap<S> image{map + roi::image_of(p.batch, rois + 5 * k) * step.n, step.h, step.w, vectors};
      vectorized([&]() __attribute__((always_inline)) {
        pool<T>(
            image, Axes<T>(p, rois + 5 * k), columns.data(),
            [&](int64_t bin, int64_t v, const Largest<T>& largest) __attribute__((always_inline)) {
              const int64_t at = bin * p.channels + v * kVectorLanes<T>;
              largest.value.store(pooled + at), largest.index.store(places + at);
            },
            [&](int64_t bin) __attribute__((always_inline)) {
              std::fill_n(pooled + bin * p.channels, p.channels, S(0));
              std::fill_n(places + bin * p.channels, p.channels, -1);
            });
      });
    }
  });
}

template <class T>
struct PoolScratch {
  roi::ChannelBlock<T> map;
  Buffer<Largest<T>> columns;
  Buffer<Vector<T>> values;                          // [P * Q]
  Buffer<Vector<typename Largest<T>::Index>> places;  // [P * Q]
};

template <class T>
roi::Window window_of(const Params& p, const T* rois, const RoiGroups& groups, int64_t image) {
  roi::Window window;
  const auto [begin, end] = groups.range(image);
  for (int64_t r = begin; r < end; ++r) {
    const Axes<T> axes(p, rois + 5 * groups.order[r]);
    const PixelRange y = axes.y.extent(), x = axes.x.extent();
    if (y.low < y.high && x.low < x.high) window.include(y.low, y.high - 1, x.low, x.high - 1);
  }
  return window;
}

template <class T, class S>
void pool_blocks(const Params& p, const Tensor& input, const T* rois, const RoiGroups& groups, Tensor& output,
                 Tensor& argmax) {
  const Strides step = strides_of(input), out_step = strides_of(output);
  const int64_t bins = p.pooled_height * p.pooled_width;
  const S* map = input.const_data_ptr<S>();
  S* out = output.mutable_data_ptr<S>();
  int32_t* indices = argmax.mutable_data_ptr<int32_t>();
  std::vector<roi::Window> windows(p.batch);
  for (int64_t n = 0; n < p.batch; ++n) windows[n] = window_of(p, rois, groups, n);
  const int64_t parts = roi::parts_for(p.batch, p.channels, kVectorLanes<T>);
  roi::for_each_block<PoolScratch<T>>(
      p.batch, p.channels, kVectorLanes<T>, parts,
      [&](const Block& block, PoolScratch<T>& scratch) __attribute__((always_inline)) {
        const auto [begin, end] = groups.range(block.map, block.part, block.parts);
        if (begin == end) return;
        scratch.map.reset(windows[block.map]);
        scratch.map.load(map + block.map * step.n + block.channel * step.c, step, block.lanes);
        scratch.columns.reserve(size_t(windows[block.map].columns()));
        scratch.values.reserve(size_t(bins)), scratch.places.reserve(size_t(bins));
        auto* values = scratch.values.data();
        auto* places = scratch.places.data();
        for (int64_t r = begin; r < end; ++r) {
          const int64_t k = groups.order[r];
          pool<T>(
              roi::vectors_of(scratch.map), Axes<T>(p, rois + 5 * k), scratch.columns.data(),
              [&](int64_t bin, int64_t, const Largest<T>& largest) __attribute__((always_inline)) {
                values[bin] = largest.value, places[bin] = largest.index;
              },
              [&](int64_t bin) __attribute__((always_inline)) {
                values[bin] = {}, places[bin] = {};
                places[bin].raw -= 1;
              });
          const int64_t at = k * out_step.n + block.channel * out_step.c;
          roi::store_lanes<T>(values, bins, block.lanes, out + at, out_step.c, out_step.w);
          roi::store_lanes<typename Largest<T>::Index>(places, bins, block.lanes, indices + at, out_step.c, out_step.w);
        }
      });
}

std::tuple<Tensor, Tensor> forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                                   int64_t pooled_width) {
  constexpr const char* kOp = "roi_pool";
  const Params p = forward_params(kOp, input, rois, spatial_scale, pooled_height, pooled_width);
  const bool channels_last = is_channels_last(input);
  auto [output, argmax] = empty_outputs(p, input, rois.size(0));
  advise_huge_pages(output), advise_huge_pages(argmax);
  dispatch_floating(kOp, input.scalar_type(), [&, &output = output, &argmax = argmax](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(input.scalar_type()));
    const T* data = plain.const_data_ptr<T>();
    const RoiGroups groups = roi::groups_by_image(kOp, p.batch, data, rois.size(0));
    if (output.numel() == 0) return;
    if (channels_last && p.channels % kVectorLanes<T> == 0) {
      pool_channels_last<T, S>(p, input, data, groups, output, argmax);
    } else {
      pool_blocks<T, S>(p, input, data, groups, output, argmax);
    }
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
      p.batch, p.channels, lanes, 1, [&](const Block& block, Buffer<T>& sums) __attribute__((always_inline)) {
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
                int64_t height, int64_t width, bool channels_last) {
  constexpr const char* kOp = "roi_pool_backward";
  const Params p = backward_params(kOp, grad, rois, argmax, spatial_scale, batch, height, width);
  Tensor output = empty_map(grad, batch, p.channels, height, width, channels_last);
  advise_huge_pages(output);
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Tensor plain = contiguous_as(rois, geometry_type(grad.scalar_type()));
    const RoiGroups groups = roi::groups_by_image(kOp, p.batch, plain.const_data_ptr<T>(), rois.size(0));
    if (rois.size(0) == 0) {
      torch::stable::zero_(output);
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
