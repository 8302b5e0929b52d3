// The R-CNN box parametrisation (Girshick et al. 2014, appendix C) and its gradients, one axis at a time.
//
//   encode: d = w0 (centre(box) - centre(anchor)) / length(anchor),  e = w1 log(length(box) / length(anchor))
//   decode: centre = d / w0 length(anchor) + centre(anchor),  length = exp(min(e / w1, clamp)) length(anchor)
#pragma once

#include <vector>

#include "common/box.h"
#include "common/checks.h"

namespace fastvision::box_coder {

template <class T>
struct Coder {
  T weights[4];  // of dx, dy, dw, dh
  T scale_clamp;
  T clip_height, clip_width;  // negative: no clipping
};

// One axis: an interval, or an (offset, log scale) pair.
template <class T>
struct Pair {
  T low, high;
};

template <class T>
FV_HOST_DEVICE Pair<T> encode_axis(Pair<T> box, Pair<T> anchor, T w0, T w1) {
  const T length = box.high - box.low, anchor_length = anchor.high - anchor.low;
  const T shift = (box.low + T(0.5) * length) - (anchor.low + T(0.5) * anchor_length);
  return {w0 * shift / anchor_length, w1 * std::log(length / anchor_length)};
}

template <class T>
FV_HOST_DEVICE void encode_axis_backward(Pair<T> grad, Pair<T> box, Pair<T> anchor, T w0, T w1, Pair<T>& to_box,
                                         Pair<T>& to_anchor) {
  const T length = box.high - box.low, anchor_length = anchor.high - anchor.low;
  const T shift = (box.low + T(0.5) * length) - (anchor.low + T(0.5) * anchor_length);
  const T to_shift = grad.low * w0 / anchor_length;
  const T to_length = grad.high * w1 / length;
  const T to_anchor_length = -to_shift * shift / anchor_length - grad.high * w1 / anchor_length;
  to_box = {T(0.5) * to_shift - to_length, T(0.5) * to_shift + to_length};
  to_anchor = {T(-0.5) * to_shift - to_anchor_length, T(-0.5) * to_shift + to_anchor_length};
}

template <class T>
FV_HOST_DEVICE Pair<T> decode_axis(Pair<T> code, Pair<T> anchor, T w0, T w1, T clamp, T clip) {
  const T anchor_length = anchor.high - anchor.low;
  const T exponent = code.high / w1;
  const T centre = code.low / w0 * anchor_length + (anchor.low + T(0.5) * anchor_length);
  const T half = T(0.5) * (std::exp(exponent > clamp ? clamp : exponent) * anchor_length);
  T low = centre - half, high = centre + half;
  if (clip >= 0) {  // comparisons keep NaN
    low = low < 0 ? T(0) : low > clip ? clip : low;
    high = high < 0 ? T(0) : high > clip ? clip : high;
  }
  return {low, high};
}

template <class T>
FV_HOST_DEVICE void decode_axis_backward(Pair<T> grad, Pair<T> code, Pair<T> anchor, T w0, T w1, T clamp, T clip,
                                         Pair<T>& to_code, Pair<T>& to_anchor) {
  if (clip >= 0) {
    const Pair<T> plain = decode_axis(code, anchor, w0, w1, clamp, T(-1));
    if (!(plain.low >= 0 && plain.low <= clip)) grad.low = 0;
    if (!(plain.high >= 0 && plain.high <= clip)) grad.high = 0;
  }
  const T anchor_length = anchor.high - anchor.low, exponent = code.high / w1;
  const bool clamped = exponent > clamp;
  const T scale = std::exp(clamped ? clamp : exponent);
  const T to_centre = grad.low + grad.high, to_length = T(0.5) * (grad.high - grad.low);
  to_code = {to_centre * anchor_length / w0, clamped ? T(0) : to_length * scale * anchor_length / w1};
  const T to_anchor_length = to_centre * code.low / w0 + to_length * scale;
  to_anchor = {T(0.5) * to_centre - to_anchor_length, T(0.5) * to_centre + to_anchor_length};
}

// Four numbers of a row: (x1, y1, x2, y2) or (dx, dy, dw, dh); either way x is (0, 2) and y is (1, 3).
template <class T>
FV_HOST_DEVICE Pair<T> axis_of(const T* row, int axis) {
  return {row[axis], row[axis + 2]};
}

template <class T>
FV_HOST_DEVICE void set_axis(T* row, int axis, Pair<T> pair) {
  row[axis] = pair.low, row[axis + 2] = pair.high;
}

template <class T>
FV_HOST_DEVICE void encode(const Coder<T>& coder, const T* box, const T* anchor, T* out) {
  for (int a = 0; a < 2; ++a) {
    set_axis(out, a, encode_axis(axis_of(box, a), axis_of(anchor, a), coder.weights[a], coder.weights[a + 2]));
  }
}

template <class T>
FV_HOST_DEVICE void encode_backward(const Coder<T>& coder, const T* grad, const T* box, const T* anchor, T* to_box,
                                    T* to_anchor) {
  for (int a = 0; a < 2; ++a) {
    Pair<T> pair_box, pair_anchor;
    encode_axis_backward(axis_of(grad, a), axis_of(box, a), axis_of(anchor, a), coder.weights[a], coder.weights[a + 2],
                         pair_box, pair_anchor);
    set_axis(to_box, a, pair_box), set_axis(to_anchor, a, pair_anchor);
  }
}

template <class T>
FV_HOST_DEVICE void decode(const Coder<T>& coder, const T* code, const T* anchor, T* out) {
  for (int a = 0; a < 2; ++a) {
    set_axis(out, a,
             decode_axis(axis_of(code, a), axis_of(anchor, a), coder.weights[a], coder.weights[a + 2],
                         coder.scale_clamp, a == 0 ? coder.clip_width : coder.clip_height));
  }
}

// Gradients of the `codes` codes of one anchor; the anchor's is their sum.
template <class T>
FV_HOST_DEVICE void decode_backward(const Coder<T>& coder, const T* grad, const T* code, const T* anchor, int64_t codes,
                                    T* to_code, T* to_anchor) {
  for (int i = 0; i < 4; ++i) to_anchor[i] = 0;
  for (int64_t k = 0; k < codes; ++k) {
    for (int a = 0; a < 2; ++a) {
      Pair<T> pair_code, pair_anchor;
      decode_axis_backward(axis_of(grad + 4 * k, a), axis_of(code + 4 * k, a), axis_of(anchor, a), coder.weights[a],
                           coder.weights[a + 2], coder.scale_clamp, a == 0 ? coder.clip_width : coder.clip_height,
                           pair_code, pair_anchor);
      set_axis(to_code + 4 * k, a, pair_code);
      to_anchor[a] += pair_anchor.low, to_anchor[a + 2] += pair_anchor.high;
    }
  }
}

template <class T>
Coder<T> make_coder(const std::vector<double>& weights, double scale_clamp, const std::vector<double>& clip_to) {
  Coder<T> coder;
  for (int i = 0; i < 4; ++i) coder.weights[i] = T(weights[i]);
  coder.scale_clamp = T(scale_clamp);
  coder.clip_height = clip_to.empty() ? T(-1) : T(clip_to[0]);
  coder.clip_width = clip_to.empty() ? T(-1) : T(clip_to[1]);
  return coder;
}

inline void validate_weights(const char* op, const std::vector<double>& weights) {
  FV_CHECK(weights.size() == 4, op, "expected 4 weights (dx, dy, dw, dh), got ", weights.size());
}

}  // namespace fastvision::box_coder
