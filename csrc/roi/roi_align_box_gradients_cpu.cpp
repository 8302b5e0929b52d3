// Gradients of roi_align with respect to the rois, on the CPU.
//
// An edge of a roi moves every sample of its axis; the pooled map changes by D_y F A_x^T or A_y F D_x^T, where the rows
// of D are those of A with each sample's weights replaced by its slope. The gradient is the dot product of that with
// the gradient of the pooled map: summed over the lanes of a block of channels first, then over the blocks in order.
#include "common/dispatch.h"
#include "roi/blocks.h"
#include "roi/roi_align_cpu.h"
#include "roi/roi_align_taps.h"
#include "roi/separable.h"

namespace fastvision::roi_align {
namespace {

using roi::AxisTaps;
using roi::Block;

template <class T>
struct EdgeTaps {
  AxisTaps<T> low, high;  // d A / d (low edge), d A / d (high edge)

  [[gnu::noinline]] void build(const SampledAxis<T>& axis, const AxisMotion<T>& motion, int64_t bins) {
    const auto slopes = [&](T EdgeSlopes<T>::* edge) {
      return [&, edge](int64_t bin, const auto& emit) {
        for_each_sample(axis, bin, [&](const Sample<T>& sample) {
          const T slope = edge_slopes(motion, bin, sample).*edge / axis.samples;
          if (sample.inside) emit(sample.low, -slope), emit(sample.high, slope);
        });
      };
    };
    low.build(bins, slopes(&EdgeSlopes<T>::low));
    high.build(bins, slopes(&EdgeSlopes<T>::high));
  }
};

template <class T>
struct GradientScratch : BlockScratch<T> {
  EdgeTaps<T> y, x;
};

// Sum over bins and lanes of grad times the map pooled with the given taps.
template <class T, int kBytes>
[[gnu::always_inline]] inline T slope_of(RegisterBytes<kBytes> bytes, const roi::ChannelBlock<T>& map,
                                         const AxisTaps<T>& y, const AxisTaps<T>& x, const Vector<T>* grad,
                                         Buffer<Vector<T>>& columns) {
  if (y.empty() || x.empty()) return 0;
  Vector<T, kBytes> total;
  roi::pool<T>(bytes, roi::vectors_of(map), y, x, columns.data(),
               [&](int64_t bin, int64_t, const auto& sum)
                   __attribute__((always_inline)) { total.add(sum, as(bytes, grad)[bin]); });
  return total.sum();
}

// sums [blocks of channels, K, 4]
template <class T, class S>
void sum_blocks(const Rois<T>& rois, const Tensor& grad, const Tensors& maps, T* sums) {
  const Params& p = rois.p;
  const Strides grad_step = strides_of(grad);
  const S* grads = grad.const_data_ptr<S>();
  const Maps<const S> inputs = maps_of<const S>(maps);
  const TapTable<T> table(rois);
  const int64_t parts = roi::parts_for(rois.maps(), p.channels, kVectorLanes<T>);
  roi::for_each_block<GradientScratch<T>>(
      rois.maps(), p.channels, kVectorLanes<T>, parts,
      [&](auto bytes, const Block& block, GradientScratch<T>& scratch) __attribute__((always_inline)) {
        const auto [begin, end] = rois.groups.range(block.map, block.part, block.parts);
        if (begin == end) return;
        scratch.map.reset(table.window(block.map));
        const int64_t l = block.map / p.batch;
        const Strides& step = inputs.step[l];
        scratch.map.load(inputs.data[l] + block.map % p.batch * step.n + block.channel * step.c, step, block.lanes);
        scratch.pooled.reserve(size_t(p.pooled_height * p.pooled_width));
        Vector<T>* pooled = scratch.pooled.data();
        if (block.lanes < kVectorLanes<T>) std::fill_n(pooled, p.pooled_height * p.pooled_width, Vector<T>{});
        for (int64_t r = begin; r < end; ++r) {
          const int64_t k = rois.groups.order[r];
          const T* roi = rois.data + 5 * k;
          const Level& level = p.level[l];
          const roi::RoiTaps<T>& taps = table.get(block.map, r, scratch.taps);
          scratch.y.build(rows_of(p, level, roi), row_motion(p, level, roi), p.pooled_height);
          scratch.x.build(columns_of(p, level, roi), column_motion(p, level, roi), p.pooled_width);
          scratch.columns.reserve(
              std::max({taps.x.columns.size(), scratch.x.low.columns.size(), scratch.x.high.columns.size()}));
          roi::load_bins<T>(grads + k * grad_step.n + block.channel * grad_step.c, grad_step, p.pooled_height,
                            p.pooled_width, block.lanes, pooled);
          T* out = sums + (block.channel / kVectorLanes<T> * rois.count + k) * 4;
          out[0] = slope_of(bytes, scratch.map, taps.y, scratch.x.low, pooled, scratch.columns);
          out[1] = slope_of(bytes, scratch.map, scratch.y.low, taps.x, pooled, scratch.columns);
          out[2] = slope_of(bytes, scratch.map, taps.y, scratch.x.high, pooled, scratch.columns);
          out[3] = slope_of(bytes, scratch.map, scratch.y.high, taps.x, pooled, scratch.columns);
        }
      });
}

}  // namespace

void Cpu::box_gradients(const char* op, const Params& p, const Tensor& grad, const Tensors& maps, const Tensor& plain,
                        Tensor& output) {
  dispatch_floating(op, grad.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const Rois<T> rois(op, p, plain);
    if (grad.numel() == 0) return;
    const int64_t blocks = (p.channels + kVectorLanes<T> - 1) / kVectorLanes<T>;
    std::vector<T> sums(size_t(blocks * rois.count * 4), T(0));
    sum_blocks<T, S>(rois, grad, maps, sums.data());
    T* out = output.mutable_data_ptr<T>();
    parallel_for(rois.count, 1024, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        for (int64_t b = 0; b < blocks; ++b) {
          for (int64_t edge = 0; edge < 4; ++edge) out[5 * k + 1 + edge] += sums[(b * rois.count + k) * 4 + edge];
        }
      }
    });
  });
}

}  // namespace fastvision::roi_align
