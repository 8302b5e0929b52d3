// The rois of a roi_align call and their taps, as the CPU kernels share them.
#pragma once

#include "common/parallel.h"
#include "common/simd.h"
#include "roi/channel_block.h"
#include "roi/roi_align.h"
#include "roi/roi_groups.h"
#include "roi/taps.h"

namespace fastvision::roi_align {

// The rois of a call, grouped by the map they are pooled from: map l * batch + n is image n of level l.
template <class T>
struct Rois {
  const Params& p;
  const T* data;  // [count, 5]
  int64_t count;
  roi::RoiGroups groups;

  Rois(const char* op, const Params& params, const Tensor& rois)
      : p(params),
        data(rois.const_data_ptr<T>()),
        count(rois.size(0)),
        groups(
            params.levels * params.batch, count,
            [&](int64_t k) {
              const int64_t image = roi::checked_image(op, p.batch, data + 5 * k, k), level = level_of(p, data + 5 * k);
              return level < 0 ? -1 : level * p.batch + image;
            },
            [&](int64_t k) { return double(data[5 * k + 2]) + double(data[5 * k + 4]); }) {}

  int64_t maps() const { return p.levels * p.batch; }
  const Level& level(int64_t map) const { return p.level[map / p.batch]; }

  // Taps of the roi at position r, one of those of `map`.
  [[gnu::noinline]] void build(int64_t map, int64_t r, roi::RoiTaps<T>& taps) const {
    const T* roi = data + 5 * groups.order[r];
    taps.y.build(rows_of(p, level(map), roi), p.pooled_height);
    taps.x.build(columns_of(p, level(map), roi), p.pooled_width);
  }
};

// Taps by position in the groups. They are kept where several blocks of channels need them, which for rois of usual
// size takes less memory than the pooled map, and are otherwise built when asked for.
template <class T>
class TapTable {
 public:
  explicit TapTable(const Rois<T>& rois) : rois_(rois), windows_(rois.maps()) {
    const int64_t count = rois.groups.offsets[rois.maps()];
    if (rois.p.channels > kVectorLanes<T>) kept_.resize(count);
    std::vector<roi::Window> window(count);
    std::vector<size_t> columns(count);
    parallel_for(count, 64, [&](int64_t begin, int64_t end) {
      roi::RoiTaps<T> scratch;
      for (int64_t r = begin, map = rois.groups.map_at(begin); r < end; ++r) {
        while (r >= rois.groups.offsets[map + 1]) ++map;
        roi::RoiTaps<T>& taps = kept_.empty() ? scratch : kept_[r];
        rois.build(map, r, taps);
        columns[r] = taps.x.columns.size();
        if (!taps.empty()) window[r].include(taps.y.low, taps.y.high, taps.x.low, taps.x.high);
      }
    });
    for (int64_t map = 0; map < rois.maps(); ++map) {
      for (int64_t r = rois.groups.offsets[map]; r < rois.groups.offsets[map + 1]; ++r) {
        windows_[map].include(window[r]);
        widest_ = std::max(widest_, columns[r]);
      }
    }
  }

  const roi::RoiTaps<T>& get(int64_t map, int64_t r, roi::RoiTaps<T>& scratch) const {
    if (!kept_.empty()) return kept_[r];
    rois_.build(map, r, scratch);
    return scratch;
  }
  const roi::Window& window(int64_t map) const { return windows_[map]; }  // the pixels its rois read
  size_t widest() const { return widest_; }                               // columns of the roi that has most of them

 private:
  const Rois<T>& rois_;
  std::vector<roi::RoiTaps<T>> kept_;
  std::vector<roi::Window> windows_;
  size_t widest_ = 1;
};

template <class T>
struct BlockScratch {
  roi::ChannelBlock<T> map;   // the pixels that the rois of a map read
  Buffer<Vector<T>> columns;  // sums of rows, one for each distinct column of a roi
  Buffer<Vector<T>> pooled;   // [P * Q]
  roi::RoiTaps<T> taps;

  void reserve(const Params& p, size_t widest) {
    columns.reserve(widest);
    pooled.reserve(size_t(p.pooled_height * p.pooled_width));
  }
};

}  // namespace fastvision::roi_align
