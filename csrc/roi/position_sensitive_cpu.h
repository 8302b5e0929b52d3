// Position-sensitive pooling on the CPU: the output channels of one bin are a block of channels, P * Q apart in the
// input. A block of planes is transposed to [pixels, lanes] once, every roi of the image pools its bin from it, and the
// next block follows; the backward is the transpose of that, one thread a block.
#pragma once

#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "roi/blocks.h"
#include "roi/channel_block.h"
#include "roi/position_sensitive.h"
#include "roi/roi_groups.h"
#include "roi/taps.h"

namespace fastvision::position_sensitive {

// The rois of a call by image, with the taps of all their bins and the pixels that each image's rois read.
template <class T, class Sampler>
struct Rois {
  roi::RoiGroups groups;
  std::vector<roi::RoiTaps<T>> taps;  // by position in the groups
  std::vector<roi::Window> windows;   // by image

  Rois(const char* op, const Params& p, const Tensor& rois)
      : groups(roi::groups_by_image(op, p.batch, rois.const_data_ptr<T>(), rois.size(0))),
        taps(rois.size(0)),
        windows(p.batch) {
    const T* data = rois.const_data_ptr<T>();
    parallel_for(rois.size(0), 64, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* roi = data + 5 * groups.order[r];
        build(taps[r].y, Sampler::rows(p, roi), p.pooled_height);
        build(taps[r].x, Sampler::columns(p, roi), p.pooled_width);
      }
    });
    for (int64_t n = 0; n < p.batch; ++n) {
      for (int64_t r = groups.offsets[n]; r < groups.offsets[n + 1]; ++r) {
        if (!taps[r].empty()) windows[n].include(taps[r].y.low, taps[r].y.high, taps[r].x.low, taps[r].x.high);
      }
    }
  }

 private:
  template <class Axis>
  static void build(roi::AxisTaps<T>& taps, const Axis& axis, int64_t bins) {
    taps.build(bins, [&](int64_t bin, const auto& emit) { for_each_tap(axis, bin, emit); });
  }
};

// One bin of a block of output channels.
struct BinBlock {
  int64_t image, i, j, channel, lanes;
  Strides step;  // of the map, from output channel to output channel

  BinBlock(const Params& p, const roi::Block& block, const Strides& map)
      : image(block.map / p.bins()),
        i(block.map % p.bins() / p.pooled_width),
        j(block.map % p.pooled_width),
        channel(block.channel),
        lanes(block.lanes),
        step{map.n, map.c * p.bins(), map.h, map.w} {}

  // of the first of its channels in the map
  int64_t map_offset(const Params& p, const Strides& map) const {
    return image * map.n + ((channel * p.pooled_height + i) * p.pooled_width + j) * map.c;
  }
  int64_t pooled_offset(int64_t k, const Strides& pooled) const {
    return k * pooled.n + channel * pooled.c + i * pooled.h + j * pooled.w;
  }
};

// visit(pixel, weight) for each pixel of the block that the bin reads
template <class T, class Visit>
[[gnu::always_inline]] inline void for_each_pixel(const roi::ChannelBlock<T>& map, const roi::RoiTaps<T>& taps,
                                                  const BinBlock& bin, const Visit& visit) {
  for (int32_t a = taps.y.offsets[bin.i]; a < taps.y.offsets[bin.i + 1]; ++a) {
    Vector<T>* row = map.pixel(taps.y.pixels[a], 0);
    for (int32_t b = taps.x.offsets[bin.j]; b < taps.x.offsets[bin.j + 1]; ++b) {
      visit(row[taps.x.pixels[b]], taps.y.weights[a] * taps.x.weights[b]);
    }
  }
}

struct Cpu {
  template <class Sampler>
  static void pool(const char* op, const Params& p, const Tensor& input, const Tensor& plain, Tensor& output) {
    dispatch_floating(op, input.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      pool_blocks<Sampler, Accumulator<S>, S>(op, p, input, plain, output);
    });
  }

  template <class Sampler>
  static void unpool(const char* op, const Params& p, const Tensor& grad, const Tensor& plain, Tensor& map) {
    dispatch_floating(op, grad.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      unpool_blocks<Sampler, Accumulator<S>, S>(op, p, grad, plain, map);
    });
  }

 private:
  template <class Sampler, class T, class S>
  static void pool_blocks(const char* op, const Params& p, const Tensor& input, const Tensor& plain, Tensor& output) {
    const Rois<T, Sampler> rois(op, p, plain);
    if (output.numel() == 0) return;
    // interleaved planes are P * Q * 4 bytes apart, too far to gather from: one copy makes them planes
    const Tensor planes = input.stride(1) == 1 && p.height * p.width > 1 ? torch::stable::contiguous(input) : input;
    const Strides step = strides_of(planes), out_step = strides_of(output);
    const S* data = planes.const_data_ptr<S>();
    S* out = output.mutable_data_ptr<S>();
    const int64_t maps = p.batch * p.bins();
    roi::for_each_block<roi::ChannelBlock<T>>(
        maps, p.outputs, kVectorLanes<T>, roi::parts_for(maps, p.outputs, kVectorLanes<T>),
        [&](const roi::Block& block, roi::ChannelBlock<T>& map) __attribute__((always_inline)) {
          const BinBlock bin(p, block, step);
          const auto [begin, end] = rois.groups.range(bin.image, block.part, block.parts);
          if (begin == end) return;
          map.reset(rois.windows[bin.image]);
          map.load(data + bin.map_offset(p, step), bin.step, bin.lanes);
          for (int64_t r = begin; r < end; ++r) {
            Vector<T> sum;
            for_each_pixel(map, rois.taps[r], bin,
                           [&](const Vector<T>& pixel, T weight)
                               __attribute__((always_inline)) { sum.add(weight, pixel); });
            roi::store_lanes<T>(&sum, 1, bin.lanes, out + bin.pooled_offset(rois.groups.order[r], out_step), out_step.c,
                                out_step.w);
          }
        });
  }

  template <class Sampler, class T, class S>
  static void unpool_blocks(const char* op, const Params& p, const Tensor& grad, const Tensor& plain, Tensor& output) {
    const Rois<T, Sampler> rois(op, p, plain);
    if (output.numel() == 0) return;
    // planes first, then interleaved in one copy
    const bool interleaved = is_channels_last(output);
    Tensor planes = interleaved ? empty_map(grad, p.batch, p.outputs * p.bins(), p.height, p.width, false) : output;
    advise_huge_pages(planes);
    const Strides step = strides_of(grad), out_step = strides_of(planes);
    const S* grads = grad.const_data_ptr<S>();
    S* out = planes.mutable_data_ptr<S>();
    roi::for_each_block<roi::ChannelBlock<T>>(
        p.batch * p.bins(), p.outputs, kVectorLanes<T>, 1,
        [&](const roi::Block& block, roi::ChannelBlock<T>& map) __attribute__((always_inline)) {
          const BinBlock bin(p, block, out_step);
          map.reset(rois.windows[bin.image]);
          map.clear();
          const auto [begin, end] = rois.groups.range(bin.image);
          for (int64_t r = begin; r < end; ++r) {
            Vector<T> g;
            roi::load_lanes<T>(grads + bin.pooled_offset(rois.groups.order[r], step), step.c, step.w, 1, bin.lanes, &g);
            for_each_pixel(map, rois.taps[r], bin,
                           [&](Vector<T>& pixel, T weight) __attribute__((always_inline)) { pixel.add(weight, g); });
          }
          map.store(out + bin.map_offset(p, out_step), bin.step, p.height, p.width, bin.lanes);
        });
    if (interleaved) torch::stable::copy_(output, planes);
  }
};

}  // namespace fastvision::position_sensitive
