// match_boxes on the CPU: blocks of anchors over threads, every ground truth against a block while it is in cache.
//
// The low-quality rule asks which anchors reach the largest overlap of a ground truth. The first pass notes that
// largest overlap block by block, so that the second looks only into blocks that reach it.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <vector>

#include "boxes/match_boxes.h"
#include "common/boxes_of.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/simd.h"

namespace fastvision::match_boxes {
namespace {

constexpr int kBlock = 256;  // anchors; small, so that a block of neighbours is near few ground truths

template <class T>
using Index = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;  // as wide as T, so that both share a lane

// Neighbouring anchors as structure of arrays; the rest of the last block is empty boxes.
template <class T>
struct AnchorBlock {
  alignas(64) T x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], area[kBlock];
  Box<T> hull;

  [[gnu::always_inline]] void load(const Box<T>* anchors, int count) {
    constexpr T kMost = std::numeric_limits<T>::infinity();
    hull = {kMost, kMost, -kMost, -kMost};
    for (int l = 0; l < count; ++l) {
      const Box<T> a = anchors[l];
      x1[l] = a.x1, y1[l] = a.y1, x2[l] = a.x2, y2[l] = a.y2;
      hull = {minimum(a.x1, hull.x1), minimum(a.y1, hull.y1), maximum(a.x2, hull.x2), maximum(a.y2, hull.y2)};
    }
    for (int l = count; l < kBlock; ++l) x1[l] = y1[l] = x2[l] = y2[l] = 0;
    for (int l = 0; l < kBlock; ++l) area[l] = box_area(Box<T>{x1[l], y1[l], x2[l], y2[l]});
  }

  [[gnu::always_inline]] bool near(const Box<T>& b) const { return intersection(hull, b) > 0; }

  [[gnu::always_inline]] T iou_with(int l, const Box<T>& gt, T gt_area) const {
    return iou(gt, Box<T>{x1[l], y1[l], x2[l], y2[l]}, gt_area, area[l]);
  }
};

template <class T>
struct Matcher {
  const Box<T>* gts;
  int64_t gt_count;
  const Box<T>* anchors;
  int64_t anchor_count;
  Params<T> params;
  int64_t* matches;                    // [A]
  std::vector<T> reached;              // [G, blocks] largest overlap of a ground truth within a block
  std::vector<Index<T>> best_indices;  // [A] ground truth of the largest overlap, the first of equals

  Index<T> first_gt;  // the first whose overlaps with finite anchors are numbers, or 0

  // The ground truth of an overlap of 0, if there is no larger one: the first of equals, where NaN equals nothing.
  Index<T> first_comparable(const AnchorBlock<T>& a, int l) const {
    for (int64_t g = first_gt; g < gt_count; ++g) {
      const T value = a.iou_with(l, gts[g], box_area(gts[g]));
      if (value == value) return Index<T>(g);
    }
    return 0;
  }

  int64_t blocks() const { return (anchor_count + kBlock - 1) / kBlock; }
  int count_in(int64_t block) const { return int(std::min<int64_t>(kBlock, anchor_count - block * kBlock)); }

  [[gnu::always_inline]] void first_pass(int64_t block) {
    constexpr int kLanes = kVectorLanes<T>;
    AnchorBlock<T> a;
    const int count = count_in(block);
    a.load(anchors + block * kBlock, count);
    alignas(64) T best[kBlock] = {};  // overlaps are never negative
    alignas(64) Index<T> index[kBlock];
    int odd = 0;  // whether an anchor's area is not finite
    for (int l = 0; l < kBlock; ++l) index[l] = first_gt, odd |= a.area[l] - a.area[l] != 0;
    for (int l = 0; odd && l < count; ++l) index[l] = first_comparable(a, l);
    for (int64_t g = 0; g < gt_count; ++g) {
      const Box<T> gt = gts[g];
      if (!a.near(gt)) continue;
      const T gt_area = box_area(gt);
      alignas(64) T most[kLanes] = {};
      for (int l0 = 0; l0 < kBlock; l0 += kLanes) {
        for (int l = 0; l < kLanes; ++l) {
          const T value = a.iou_with(l0 + l, gt, gt_area);
          const bool better = value > best[l0 + l];
          index[l0 + l] = better ? Index<T>(g) : index[l0 + l];
          best[l0 + l] = better ? value : best[l0 + l];
          most[l] = value > most[l] ? value : most[l];
        }
      }
      if (params.low_quality) {
        T all = 0;
        for (int l = 0; l < kLanes; ++l) all = maximum(most[l], all);
        reached[g * blocks() + block] = all;
      }
    }
    for (int l = 0; l < count; ++l) {
      matches[block * kBlock + l] = verdict(params, best[l], int64_t(index[l]));
      if (params.low_quality) best_indices[block * kBlock + l] = index[l];
    }
  }

  // `highest` [G]: the largest overlap of each ground truth with any anchor, 0 included
  [[gnu::always_inline]] void second_pass(int64_t block, const std::vector<T>& highest) {
    AnchorBlock<T> a;
    bool loaded = false;
    const int count = count_in(block);
    for (int64_t g = 0; g < gt_count; ++g) {
      if (reached[g * blocks() + block] != highest[g]) continue;
      if (!loaded) a.load(anchors + block * kBlock, count);
      loaded = true;
      const T gt_area = box_area(gts[g]);
      for (int l = 0; l < count; ++l) {
        const int64_t i = block * kBlock + l;
        const bool reaches = a.iou_with(l, gts[g], gt_area) == highest[g];
        matches[i] = reaches ? int64_t(best_indices[i]) : matches[i];
      }
    }
  }

  void run() {
    const auto for_each_block = [&](auto pass) {
      parallel_for(blocks(), 4, [&](int64_t begin, int64_t end) {
        vectorized([&]() __attribute__((always_inline)) {
          for (int64_t block = begin; block < end; ++block) pass(block);
        });
      });
    };
    first_gt = 0;
    while (first_gt < gt_count && box_area(gts[first_gt]) != box_area(gts[first_gt])) ++first_gt;
    if (first_gt == gt_count) first_gt = 0;
    if (params.low_quality) {
      reached.assign(gt_count * blocks(), T(0));
      best_indices.resize(anchor_count);
    }
    for_each_block([&](int64_t block) __attribute__((always_inline)) { first_pass(block); });
    if (!params.low_quality) return;
    std::vector<T> highest(gt_count);
    for (int64_t g = 0; g < gt_count; ++g) {
      highest[g] = *std::max_element(reached.begin() + g * blocks(), reached.begin() + (g + 1) * blocks());
    }
    for_each_block([&](int64_t block) __attribute__((always_inline)) { second_pass(block, highest); });
  }
};

Tensor match_boxes(const Tensor& gt_boxes, const Tensor& anchors, double high_threshold, double low_threshold,
                   bool allow_low_quality_matches) {
  validate(gt_boxes, anchors, high_threshold, low_threshold);
  const ScalarType type = geometry_type(gt_boxes, anchors);
  const Tensor g = contiguous_as(gt_boxes, type), a = contiguous_as(anchors, type);
  Tensor matches = empty_vector(a, a.size(0), ScalarType::Long);
  int64_t* out = matches.mutable_data_ptr<int64_t>();
  if (g.size(0) == 0) std::fill_n(out, a.size(0), kBackground);
  if (g.size(0) == 0 || a.size(0) == 0) return matches;
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const Params<T> params{T(high_threshold), T(low_threshold), allow_low_quality_matches};
    Matcher<T>{boxes_of<T>(g), g.size(0), boxes_of<T>(a), a.size(0), params, out, {}, {}, 0}.run();
  });
  return matches;
}

}  // namespace
}  // namespace fastvision::match_boxes

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("match_boxes", TORCH_BOX(&fastvision::match_boxes::match_boxes));
}
