// roi_align on the CPU: out = A_y F A_x^T, vectorised over channels.
//
// channels_last maps are read in place, one thread a roi. Other maps go through blocks of channels: a block of planes
// is transposed to [pixels, lanes] once, every roi of the map pools from it, and the next block follows. The backward
// is the transpose of that: one thread owns a block of channels of a map and adds its rois in order, so that sums never
// depend on the number of threads.
#include "roi/roi_align_cpu.h"

#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "roi/blocks.h"
#include "roi/roi_align_taps.h"
#include "roi/separable.h"

namespace fastvision::roi_align {
namespace {

using roi::Block;

template <class T, class S>
void zero_rois_without_map(const Rois<T>& rois, Tensor& output) {
  const Strides step = strides_of(output);
  const int64_t bins = rois.p.pooled_height * rois.p.pooled_width;
  for (int64_t r = rois.groups.offsets[rois.maps()]; r < rois.count; ++r) {
    roi::zero_lanes(output.mutable_data_ptr<S>() + rois.groups.order[r] * step.n, step.c, step.w, bins,
                    rois.p.channels);
  }
}

// channels_last in and out: one thread a roi, all channels.
template <class T, class S>
void pool_channels_last(const Rois<T>& rois, const Tensors& maps, Tensor& output) {
  const Params& p = rois.p;
  const int64_t bins = p.pooled_height * p.pooled_width, vectors = p.channels / kVectorLanes<T>;
  const Maps<const S> inputs = maps_of<const S>(maps);
  S* out = output.mutable_data_ptr<S>();
  const int64_t count = rois.groups.offsets[rois.maps()];
  parallel_workers(count, [&](const auto& next) {
    roi::RoiTaps<T> taps;
    Buffer<Vector<T>> scratch;
    for (int64_t r = next(); r < count; r = next()) {
      const int64_t k = rois.groups.order[r], map = rois.groups.map_at(r), level = map / p.batch;
      rois.build(map, r, taps);
      S* pooled = out + k * bins * p.channels;
      if (taps.empty()) {
        std::fill_n(pooled, bins * p.channels, S(0));
        continue;
      }
      scratch.reserve(taps.x.columns.size() * vectors);
      const Strides& step = inputs.step[level];
      const roi::VectorMap<S> image{inputs.data[level] + map % p.batch * step.n, step.h, step.w, vectors};
      vectorized([&](auto bytes) __attribute__((always_inline)) {
        roi::pool<T>(bytes, image, taps.y, taps.x, scratch.data(),
                     [&](int64_t bin, int64_t v, const auto& sum) __attribute__((always_inline)) {
                       sum.store(pooled + bin * p.channels + v * kVectorLanes<T>);
                     });
      });
    }
  });
}

template <class T, class S>
void pool_blocks(const Rois<T>& rois, const Tensors& maps, Tensor& output) {
  const Params& p = rois.p;
  const int64_t bins = p.pooled_height * p.pooled_width;
  const Maps<const S> inputs = maps_of<const S>(maps);
  const Strides out_step = strides_of(output);
  S* out = output.mutable_data_ptr<S>();
  const TapTable<T> table(rois);
  const int64_t parts = roi::parts_for(rois.maps(), p.channels, kVectorLanes<T>);
  roi::for_each_block<BlockScratch<T>>(
      rois.maps(), p.channels, kVectorLanes<T>, parts,
      [&](auto bytes, const Block& block, BlockScratch<T>& scratch) __attribute__((always_inline)) {
        const auto [begin, end] = rois.groups.range(block.map, block.part, block.parts);
        if (begin == end) return;
        scratch.reserve(p, table.widest());
        scratch.map.reset(table.window(block.map));
        const int64_t level = block.map / p.batch;
        const Strides& step = inputs.step[level];
        scratch.map.load(inputs.data[level] + block.map % p.batch * step.n + block.channel * step.c, step, block.lanes);
        Vector<T>* pooled = scratch.pooled.data();
        for (int64_t r = begin; r < end; ++r) {
          const roi::RoiTaps<T>& taps = table.get(block.map, r, scratch.taps);
          if (taps.empty()) {
            std::fill_n(pooled, bins, Vector<T>{});
          } else {
            roi::pool<T>(bytes, roi::vectors_of(scratch.map), taps.y, taps.x, scratch.columns.data(),
                         [&](int64_t bin, int64_t, const auto& sum)
                             __attribute__((always_inline)) { sum.store(pooled[bin].values()); });
          }
          roi::store_lanes<T>(pooled, bins, block.lanes,
                              out + rois.groups.order[r] * out_step.n + block.channel * out_step.c, out_step.c,
                              out_step.w);
        }
      });
}

template <class T, class S>
void unpool_blocks(const Rois<T>& rois, const Tensor& grad, Tensors& maps) {
  const Params& p = rois.p;
  const Strides step = strides_of(grad);
  const S* grads = grad.const_data_ptr<S>();
  const Maps<S> outputs = maps_of<S>(maps);
  const TapTable<T> table(rois);
  roi::for_each_block<BlockScratch<T>>(
      rois.maps(), p.channels, kVectorLanes<T>, 1,
      [&](auto bytes, const Block& block, BlockScratch<T>& scratch) __attribute__((always_inline)) {
        const Level& level = rois.level(block.map);
        if (level.height == 0 || level.width == 0) return;
        scratch.reserve(p, table.widest());
        scratch.map.reset(table.window(block.map));
        scratch.map.clear();
        const auto [begin, end] = rois.groups.range(block.map);
        for (int64_t r = begin; r < end; ++r) {
          const roi::RoiTaps<T>& taps = table.get(block.map, r, scratch.taps);
          if (taps.empty()) continue;
          roi::load_bins<T>(grads + rois.groups.order[r] * step.n + block.channel * step.c, step, p.pooled_height,
                            p.pooled_width, block.lanes, scratch.pooled.data());
          roi::unpool<T>(bytes, scratch.map, taps.y, taps.x, scratch.pooled.data(), scratch.columns.data());
        }
        const int64_t l = block.map / p.batch;
        const Strides& out = outputs.step[l];
        scratch.map.store(outputs.data[l] + block.map % p.batch * out.n + block.channel * out.c, out, level.height,
                          level.width, block.lanes);
      });
}

}  // namespace

void Cpu::pool(const char* op, const Params& p, const Tensors& maps, const Tensor& plain, Tensor& output) {
  dispatch_floating(op, output.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Rois<T> rois(op, p, plain);
    if (output.numel() == 0) return;
    zero_rois_without_map<T, S>(rois, output);
    const bool in_place = std::all_of(maps.begin(), maps.end(), [](const Tensor& map) { return map.stride(1) == 1; });
    if (in_place && is_channels_last(maps[0]) && p.channels % kVectorLanes<T> == 0) {
      pool_channels_last<T, S>(rois, maps, output);
    } else {
      pool_blocks<T, S>(rois, maps, output);
    }
  });
}

void Cpu::unpool(const char* op, const Params& p, const Tensor& grad, const Tensor& plain, Tensors& maps) {
  dispatch_floating(op, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Rois<T> rois(op, p, plain);
    if (rois.count == 0) {
      for (Tensor& map : maps) clear_tensor(map);
    } else {
      unpool_blocks<T, S>(rois, grad, maps);
    }
  });
}

}  // namespace fastvision::roi_align

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  using fastvision::roi_align::Cpu;
  m.impl("roi_align", TORCH_BOX(&fastvision::roi_align::roi_align<Cpu>));
  m.impl("roi_align_backward", TORCH_BOX(&fastvision::roi_align::roi_align_backward<Cpu>));
  m.impl("roi_align_box_gradients", TORCH_BOX(&fastvision::roi_align::roi_align_box_gradients<Cpu>));
}
