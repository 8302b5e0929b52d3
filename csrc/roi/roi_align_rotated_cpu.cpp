// roi_align_rotated on the CPU: the taps of a bin are found once and shared by all channels, which lie side by side.
//
// Interleaved maps are read in place; others are copied to [pixels, channels] first, padded to whole vectors. In the
// backward one thread owns a group of channels of an image and adds the rois in order: how many groups there are never
// changes a sum.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "roi/blocks.h"
#include "roi/channel_block.h"
#include "roi/interleaved.h"
#include "roi/roi_align_rotated.h"
#include "roi/roi_groups.h"

namespace fastvision::roi_align_rotated {
namespace {

using roi::RoiGroups;

template <class T>
RoiGroups groups_of(const char* op, const Params& p, const T* rois, int64_t count) {
  return RoiGroups(
      p.batch, count, [&](int64_t k) { return roi::checked_image(op, p.batch, rois + 6 * k, k); },
      [&](int64_t k) { return double(rois[6 * k + 2]); });
}

// The pixels a bin reads, as indices in the plane, with their weights.
template <class T>
class BinTaps {
 public:
  std::vector<int64_t> pixels;
  std::vector<T> weights;

  [[gnu::noinline]] void build(const Region<T>& region, int64_t i, int64_t j) {
    rows_.clear(), columns_.clear(), weights.clear();
    int64_t top = INT64_MAX, bottom = -1, left = INT64_MAX, right = -1;
    for_each_tap(region, i, j, [&](int64_t y, int64_t x, T weight) {
      rows_.push_back(y), columns_.push_back(x), weights.push_back(weight);
      top = std::min(top, y), bottom = std::max(bottom, y), left = std::min(left, x), right = std::max(right, x);
    });
    // neighbouring samples share pixels: where they are dense, sum the weights of each pixel of their bounding box
    const int64_t columns = right - left + 1, cells = bottom < 0 ? 0 : (bottom - top + 1) * columns;
    const size_t taps = weights.size();
    pixels.clear();
    if (cells > 2 * int64_t(taps)) {
      for (size_t t = 0; t < taps; ++t) pixels.push_back(rows_[t] * region.width + columns_[t]);
      return;
    }
    dense_.assign(size_t(cells), T(0));
    for (size_t t = 0; t < taps; ++t) {
      dense_[size_t((rows_[t] - top) * columns + columns_[t] - left)] += weights[t];
    }
    weights.clear();
    const T* weight = dense_.data();
    for (int64_t y = top; y <= bottom; ++y) {
      for (int64_t x = left; x <= right; ++x, ++weight) {
        if (*weight != 0) pixels.push_back(y * region.width + x), weights.push_back(*weight);
      }
    }
  }

 private:
  std::vector<int64_t> rows_, columns_;
  std::vector<T> dense_;
};

// map: pixel 0 of the image, pixels `step` apart. pooled [P * Q, vectors]
template <class T, class S>
void pool(const Params& p, const Region<T>& region, const S* map, int64_t step, int64_t vectors, BinTaps<T>& taps,
          Vector<T>* pooled) {
  for (int64_t i = 0; i < p.pooled_height; ++i) {
    for (int64_t j = 0; j < p.pooled_width; ++j, pooled += vectors) {
      taps.build(region, i, j);
      const int64_t count = int64_t(taps.pixels.size());
      const int64_t* pixels = taps.pixels.data();
      const T* weights = taps.weights.data();
      vectorized([&](auto bytes) __attribute__((always_inline)) {
        using V = Vector<T, decltype(bytes)::value>;
        for (int64_t v = 0; v < vectors; ++v) {
          V sum;
          for (int64_t t = 0; t < count; ++t) {
            sum.add(weights[t], V::load(map + pixels[t] * step + v * kVectorLanes<T>));
          }
          sum.store(pooled[v].values());
        }
      });
    }
  }
}

template <class T, class S>
void pool_all(const char* op, const Params& p, const Tensor& input, const Tensor& plain, Tensor& output) {
  const T* rois = plain.const_data_ptr<T>();
  const int64_t count = plain.size(0), bins = p.pooled_height * p.pooled_width;
  const RoiGroups groups = groups_of(op, p, rois, count);
  if (output.numel() == 0) return;
  const roi::InterleavedMap<T, S> map(input);
  const Strides step = strides_of(output);
  S* out = output.mutable_data_ptr<S>();
  parallel_workers(count, [&](const auto& next) {
    BinTaps<T> taps;
    Buffer<Vector<T>> pooled(size_t(bins * map.vectors()));
    for (int64_t r = next(); r < count; r = next()) {
      const int64_t k = groups.order[r];
      const T* roi = rois + 6 * k;
      pool(p, region_of(p, roi), map.image(roi::image_of(p.batch, roi)), map.channels(), map.vectors(), taps,
           pooled.data());
      vectorized([&]() __attribute__((always_inline)) {
        roi::store_interleaved<T>(pooled.data()->values(), map.channels(), bins, p.channels, out + k * step.n, step);
      });
    }
  });
}

// sums: pixel 0 of the first channel of a group of `vectors`, pixels `step` apart; grad [P * Q, vectors]
template <class T>
void unpool(const Params& p, const Region<T>& region, const Vector<T>* grad, int64_t vectors, BinTaps<T>& taps, T* sums,
            int64_t step) {
  for (int64_t i = 0; i < p.pooled_height; ++i) {
    for (int64_t j = 0; j < p.pooled_width; ++j, grad += vectors) {
      taps.build(region, i, j);
      vectorized([&](auto bytes) __attribute__((always_inline)) {
        using V = Vector<T, decltype(bytes)::value>;
        for (size_t t = 0; t < taps.pixels.size(); ++t) {
          T* pixel = sums + taps.pixels[t] * step;
          for (int64_t v = 0; v < vectors; ++v) {
            V sum = V::load(pixel + v * kVectorLanes<T>);
            sum.add(taps.weights[t], as(bytes, grad)[v]);
            sum.store(pixel + v * kVectorLanes<T>);
          }
        }
      });
    }
  }
}

template <class T, class S>
void unpool_all(const char* op, const Params& p, const Tensor& grad, const Tensor& plain, Tensor& output) {
  const T* rois = plain.const_data_ptr<T>();
  const RoiGroups groups = groups_of(op, p, rois, plain.size(0));
  if (output.numel() == 0) return;
  roi::InterleavedSums<T, S> sums(output);
  const Strides step = strides_of(grad);
  const S* grads = grad.const_data_ptr<S>();
  const int64_t bins = p.pooled_height * p.pooled_width;
  // groups of at least 64 channels: finding the taps costs about as much as adding so many
  const int64_t smallest = std::min<int64_t>(sums.channels(), 64);
  const int64_t wanted = (thread_count() + p.batch - 1) / p.batch, most = sums.channels() / smallest;
  const int64_t vectors = (sums.vectors() + std::min(wanted, most) - 1) / std::min(wanted, most);
  struct Scratch {
    BinTaps<T> taps;
    Buffer<Vector<T>> grad;
  };
  roi::for_each_block<Scratch>(
      p.batch, sums.channels(), vectors * kVectorLanes<T>, 1, [&](auto, const roi::Block& block, Scratch& scratch) {
        const int64_t own = block.lanes / kVectorLanes<T>, real = std::min(block.lanes, p.channels - block.channel);
        scratch.grad.reserve(size_t(bins * own));
        T* target = sums.image(block.map) + block.channel;
        const auto [begin, end] = groups.range(block.map);
        for (int64_t r = begin; r < end; ++r) {
          const int64_t k = groups.order[r];
          roi::load_interleaved(grads + k * step.n + block.channel * step.c, step, p.pooled_height, p.pooled_width,
                                real, scratch.grad.data()->values(), block.lanes);
          unpool(p, region_of(p, rois + 6 * k), scratch.grad.data(), own, scratch.taps, target, sums.channels());
        }
      });
  sums.finish();
}

Tensor forward(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
               int64_t pooled_width, int64_t sampling_ratio, bool aligned, bool clockwise) {
  constexpr const char* kOp = "roi_align_rotated";
  const Params p =
      forward_params(kOp, input, rois, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned, clockwise);
  Tensor output = empty_map(input, rois.size(0), p.channels, pooled_height, pooled_width, is_channels_last(input));
  dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    pool_all<Accumulator<S>, S>(kOp, p, input, contiguous_as(rois, geometry_type(input.scalar_type())), output);
  });
  return output;
}

Tensor backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch, int64_t height,
                int64_t width, int64_t sampling_ratio, bool aligned, bool clockwise, bool channels_last) {
  constexpr const char* kOp = "roi_align_rotated_backward";
  const Params p =
      backward_params(kOp, grad, rois, spatial_scale, batch, height, width, sampling_ratio, aligned, clockwise);
  Tensor output = empty_map(grad, batch, p.channels, height, width, channels_last);
  dispatch_floating(kOp, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    unpool_all<Accumulator<S>, S>(kOp, p, grad, contiguous_as(rois, geometry_type(grad.scalar_type())), output);
  });
  return output;
}

}  // namespace
}  // namespace fastvision::roi_align_rotated

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("roi_align_rotated", TORCH_BOX(&fastvision::roi_align_rotated::forward));
  m.impl("roi_align_rotated_backward", TORCH_BOX(&fastvision::roi_align_rotated::backward));
}
