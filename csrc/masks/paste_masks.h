// Small masks [N, M, M'] resampled into their boxes on the image, by bilinear interpolation in one of two ways:
//   torchvision   the mask with a border of zeros onto the box grown as much, its corners cut to whole pixels
//   detectron2    the centre of each pixel looked up in the box as it is, zeros outside
// Both axes are independent, so that each pixel row and column has two taps of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::paste_masks {

enum class Rule { kTorchvision, kDetectron2 };

// mask[index[0]] * weight[0] + mask[index[1]] * weight[1]; outside the mask the weight is 0 and the index 0
template <class T>
struct Tap {
  int64_t index[2];
  T weight[2];
};

// Pixels [begin, end) of one axis, and where they lie in a mask of `size` numbers.
template <class T>
struct Axis {
  int64_t begin, end, size;
  Rule rule;
  T low, scale;  // torchvision: first whole pixel, mask per pixel; detectron2: corner and length of the box

  FV_HOST_DEVICE Tap<T> tap(int64_t pixel) const {
    T place;
    int64_t most = size - 1;
    if (rule == Rule::kTorchvision) {
      place = maximum(scale * (T(pixel) - low + T(0.5)) - T(0.5), T(0));  // in the bordered mask, as torch resizes
      most = size + 1;
    } else {
      const T across = (T(pixel) + T(0.5) - low) / scale * 2 - 1;  // as torch's grid_sample reads it
      place = ((across + 1) * T(size) - 1) / 2;
    }
    const T floor = std::floor(place), part = place - floor;
    const int64_t first = int64_t(floor),
                  second = rule == Rule::kTorchvision ? (first < most ? first + 1 : first) : first + 1;
    const int64_t border = rule == Rule::kTorchvision ? 1 : 0;
    Tap<T> tap{{first - border, second - border}, {1 - part, part}};
    for (int i = 0; i < 2; ++i) {
      if (tap.index[i] < 0 || tap.index[i] >= size) tap.index[i] = 0, tap.weight[i] = 0;
    }
    return tap;
  }
};

// The box's side [low, high] on an axis of `extent` pixels; empty where it is not finite.
template <class T>
FV_HOST_DEVICE Axis<T> axis_of(T low, T high, int64_t size, int64_t extent, Rule rule) {
  constexpr T kFar = T(int64_t(1) << 30);
  const bool usable = low > -kFar && low < kFar && high > -kFar && high < kFar && size > 0;
  if (!usable) return {0, 0, size, rule, 0, 1};
  if (rule == Rule::kTorchvision) {
    const T half = (high - low) * T(0.5) * T(double(size + 2) / double(size)), centre = (high + low) * T(0.5);
    const int64_t first = int64_t(centre - half), last = int64_t(centre + half);
    const int64_t length = maximum(last - first + 1, int64_t(1));
    return {maximum(first, int64_t(0)), minimum(last + 1, extent), size, rule, T(first), T(size + 2) / T(length)};
  }
  const T length = high - low;
  if (!(length > 0)) return {0, 0, size, rule, 0, 1};
  const T reach = length / T(size) + 2;  // beyond it all taps are outside; two pixels for rounding
  const int64_t begin = int64_t(std::floor(low - reach)), end = int64_t(std::ceil(high + reach));
  return {
      minimum(maximum(begin, int64_t(0)), extent), minimum(maximum(end, int64_t(0)), extent), size, rule, low, length};
}

// What of a mask reaches the image: `above` for detectron2's >=, torchvision's >.
template <class T>
FV_HOST_DEVICE bool covers(T value, T threshold, Rule rule) {
  return rule == Rule::kDetectron2 ? value >= threshold : value > threshold;
}

inline Rule parse_rule(const char* op, const std::string& name) {
  if (name == "torchvision") return Rule::kTorchvision;
  FV_CHECK(name == "detectron2", op, "expected rule \"torchvision\" or \"detectron2\", got \"", name, '"');
  return Rule::kDetectron2;
}

// masks [N, M, M'], boxes [N, 4]
inline Rule validate(const char* op, const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                     const std::string& rule) {
  FV_CHECK(masks.dim() == 3, op, "expected masks of shape [N, M, M], got ", shape_of(masks));
  check_matrix(op, "boxes", boxes, 4);
  FV_CHECK(boxes.size(0) == masks.size(0), op, "expected as many boxes as masks, got ", shape_of(boxes), " and ",
           shape_of(masks));
  check_floating(op, "masks", masks);
  check_real(op, "boxes", boxes);
  check_same_device(op, "boxes", boxes, "masks", masks);
  FV_CHECK(height >= 0 && width >= 0 && height < (int64_t(1) << 30) && width < (int64_t(1) << 30), op,
           "expected an image size from 0 to 2^30, got ", height, " x ", width);
  return parse_rule(op, rule);
}

}  // namespace fastvision::paste_masks
