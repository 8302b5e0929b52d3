// Memory formats of [N, C, H, W] tensors.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/MemoryFormat.h>

#include "common/checks.h"
#include "common/new_tensor.h"

namespace fastvision {

constexpr int kMostLevels = 16;  // of a feature pyramid, which kernels take by value

// Strides in elements.
struct Strides {
  int64_t n, c, h, w;
};

inline Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// Of a map without gaps; those of its own say nothing of sides of 1.
inline Strides dense_strides(int64_t c, int64_t h, int64_t w, bool channels_last) {
  return channels_last ? Strides{h * w * c, 1, w * c, c} : Strides{c * h * w, h * w, w, 1};
}

// Dense in the order N, H, W, C; a tensor that is dense both ways counts as N, C, H, W.
inline bool is_channels_last(const Tensor& t) {
  if (t.is_contiguous()) return false;
  int64_t expected = 1;
  for (const int d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// Without gaps: in channels_last as it is, otherwise planes.
inline Tensor dense(const Tensor& t) {
  return t.is_contiguous() || is_channels_last(t) ? t : torch::stable::contiguous(t);
}

inline Tensor empty_map(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last,
                        std::optional<ScalarType> type = std::nullopt) {
  const auto some = [](int64_t size) { return size > 0 ? size : 1; };  // as torch counts, where memory is contiguous
  const int64_t sizes[] = {n, c, h, w};
  const int64_t planes[] = {some(c) * some(h) * some(w), some(h) * some(w), some(w), 1},
                last[] = {h * w * c, 1, w * c, c};
  return empty_strided(like, 4, sizes, channels_last ? last : planes, type);
}

}  // namespace fastvision
