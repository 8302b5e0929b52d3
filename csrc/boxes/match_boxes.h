// Matching of anchors to ground truth (Ren et al. 2015, section 3.1.2), without the matrix of overlaps.
#pragma once

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::match_boxes {

constexpr const char* kOp = "match_boxes";
constexpr int64_t kBackground = -1, kBetween = -2;

template <class T>
struct Params {
  T high, low;
  bool low_quality;  // each ground truth also takes the anchors that overlap it most
};

// The verdict on an anchor whose largest overlap is `best`, with ground truth `index`; an overlap that is NaN is none.
template <class T>
FV_HOST_DEVICE int64_t verdict(const Params<T>& params, T best, int64_t index) {
  return best < params.low ? kBackground : best < params.high ? kBetween : index;
}

// gt_boxes [G, 4], anchors [A, 4]
inline void validate(const Tensor& gt_boxes, const Tensor& anchors, double high_threshold, double low_threshold) {
  check_matrix(kOp, "gt_boxes", gt_boxes, 4);
  check_matrix(kOp, "anchors", anchors, 4);
  check_real(kOp, "gt_boxes", gt_boxes);
  check_real(kOp, "anchors", anchors);
  check_same_device(kOp, "anchors", anchors, "gt_boxes", gt_boxes);
  FV_CHECK(gt_boxes.size(0) <= 0x7fffffff, kOp, "expected fewer than 2^31 gt_boxes, got ", gt_boxes.size(0));
  FV_CHECK(low_threshold <= high_threshold, kOp, "expected low_threshold <= high_threshold, got ", low_threshold,
           " and ", high_threshold);
}

}  // namespace fastvision::match_boxes
