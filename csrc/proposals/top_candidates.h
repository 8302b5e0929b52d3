// The best scores of dense per-level maps [N, channels, H, W], read where they lie.
//
// A row is what the best are chosen from: a level of an image or, if `classes` is given, a class of an image over all
// levels, channels then being [anchors, classes] and class 0 the background, which has no row. A candidate's index
// counts (y, x, channel) within a level, or (level, y, x, anchor): the order in which detectors flatten their maps.
// Candidates rank by descending score, equal scores by index; NaN is never one. If scores are logits that rank by their
// sigmoid, large ones are merged.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/layout.h"

namespace fastvision::top_candidates {

constexpr const char* kOp = "top_candidates";

// A sigmoid 1 / (1 + exp(-x)) is rounded: from about 2 on several logits share one, from 17 (in float64 37) on all do.
// Those that share the denominator are merged into its own logit.
constexpr double kMergedFrom = 2;

template <class C>
FV_HOST_DEVICE C merged(C logit) {
  return logit >= C(kMergedFrom) ? -std::log(C(1) + std::exp(-logit) - C(1)) : logit;
}

// At most the least of the logits that were merged into this one: the denominator's spacing and rounding lower.
template <class C>
C least_merged(C logit) {
  constexpr C kUnit = std::numeric_limits<C>::epsilon();
  return logit >= C(kMergedFrom) - 8 * kUnit ? -std::log(std::exp(-logit) * (1 + 8 * kUnit) + C(0.75) * kUnit) : logit;
}

template <class S>
struct Level {
  const S* data;
  int64_t image_step;       // elements from one image to the next
  int64_t channels, cells;  // cells: H W
  int64_t first_anchor;     // anchors of earlier levels
  bool channels_last;       // cells outermost
};

template <class S>
struct Maps {
  Level<S> level[kMostLevels];
  int levels;
  int64_t images, classes;  // classes: 0 for a row for each level

  FV_HOST_DEVICE int64_t rows_an_image() const { return classes ? classes - 1 : levels; }
  FV_HOST_DEVICE int64_t image_of(int64_t row) const { return row / rows_an_image(); }

  // Levels [first, last) are a row's.
  FV_HOST_DEVICE int first_level(int64_t row) const { return classes ? 0 : int(row % rows_an_image()); }
  FV_HOST_DEVICE int last_level(int64_t row) const { return classes ? levels : first_level(row) + 1; }

  // Candidates of a row in one cell, and in one level.
  FV_HOST_DEVICE int64_t per_cell(const Level<S>& one) const { return classes ? one.channels / classes : one.channels; }
  FV_HOST_DEVICE int64_t size_of(const Level<S>& one) const { return one.cells * per_cell(one); }

  FV_HOST_DEVICE int64_t size_of(int64_t row) const {
    int64_t size = 0;
    for (int l = first_level(row); l < last_level(row); ++l) size += size_of(level[l]);
    return size;
  }

  // Address and index of candidate m of a row in one level, in the order of memory.
  FV_HOST_DEVICE const S* address(const Level<S>& one, int64_t row, int64_t m) const {
    const S* map = one.data + image_of(row) * one.image_step;
    if (!classes) return map + m;
    const int64_t c = row % rows_an_image() + 1;
    return map + (m / one.cells * classes + c) * one.cells + m % one.cells;
  }

  FV_HOST_DEVICE int64_t index(const Level<S>& one, int64_t m) const {
    if (one.channels_last) return m;
    return (classes ? one.first_anchor : 0) + m % one.cells * per_cell(one) + m / one.cells;
  }
};

// Whether each image is dense in the order of these dimensions, innermost first.
inline bool is_dense(const Tensor& map, std::initializer_list<int> dims) {
  int64_t expected = 1;
  for (const int d : dims) {
    if (map.size(d) != 1 && map.stride(d) != expected) return false;
    expected *= map.size(d);
  }
  return true;
}

// A map as the kernels can read it: dense within an image, images any distance apart.
inline Tensor readable(const Tensor& map, int64_t classes) {
  const bool dense = is_dense(map, {3, 2, 1}) || (!classes && is_dense(map, {1, 3, 2}));
  return dense ? map : torch::stable::contiguous(map);
}

template <class S>
Maps<S> maps_of(const std::vector<Tensor>& scores, int64_t classes) {
  Maps<S> maps{};
  maps.levels = int(scores.size()), maps.images = scores[0].size(0), maps.classes = classes;
  int64_t anchors = 0;
  for (int l = 0; l < maps.levels; ++l) {
    const Tensor& map = scores[l];
    const int64_t channels = map.size(1), cells = map.size(2) * map.size(3);
    maps.level[l] = {map.const_data_ptr<S>(), map.stride(0), channels, cells, anchors, !is_dense(map, {3, 2, 1})};
    if (classes) anchors += channels / classes * cells;
  }
  return maps;
}

inline void validate(const std::vector<Tensor>& scores, int64_t classes, int64_t k) {
  FV_CHECK(!scores.empty() && scores.size() <= kMostLevels, kOp, "expected 1 to ", kMostLevels, " levels, got ",
           scores.size());
  FV_CHECK(k >= 0, kOp, "expected k >= 0, got ", k);
  FV_CHECK(classes >= 0 && classes != 1, kOp, "expected 0 classes or at least 2, got ", classes);
  for (const Tensor& map : scores) {
    FV_CHECK(map.dim() == 4 && map.size(0) == scores[0].size(0) && (classes == 0 || map.size(1) % classes == 0), kOp,
             "expected scores of shape [", scores[0].size(0), ", channels, H, W], got ", shape_of(map));
    check_floating(kOp, "scores", map);
    FV_CHECK(map.scalar_type() == scores[0].scalar_type(), kOp, "expected scores of one dtype");
    check_same_device(kOp, "scores", map, "scores", scores[0]);
    FV_CHECK(map.size(1) * map.size(2) * map.size(3) < (int64_t(1) << 31), kOp,
             "expected fewer than 2^31 scores a level and image, got ", shape_of(map));
  }
}

// Candidates chosen of each row: k, or all of the largest row.
template <class S>
int64_t chosen_of(const Maps<S>& maps, int64_t k) {
  int64_t largest = 0;
  for (int64_t row = 0; row < maps.rows_an_image(); ++row) largest = std::max(largest, maps.size_of(row));
  return std::min(k, largest);
}

}  // namespace fastvision::top_candidates
