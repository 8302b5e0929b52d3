// The four box-coder ops, written once: `Rows` says how rows are iterated (common/rows.h, common/rows.cuh).
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "common/box_coder.h"
#include "common/dispatch.h"

namespace fastvision::box_coder {

inline void validate_encode(const char* op, const Tensor& boxes, const Tensor& anchors,
                            const std::vector<double>& weights) {
  check_matrix(op, "boxes", boxes, 4);
  check_matrix(op, "anchors", anchors, 4);
  FV_CHECK(boxes.size(0) == anchors.size(0), op, "expected as many boxes as anchors, got ", shape_of(boxes), " and ",
           shape_of(anchors));
  check_real(op, "boxes", boxes);
  check_real(op, "anchors", anchors);
  check_same_device(op, "anchors", anchors, "boxes", boxes);
  validate_weights(op, weights);
}

inline void validate_decode(const char* op, const Tensor& deltas, const Tensor& anchors,
                            const std::vector<double>& weights, const std::vector<double>& clip_to) {
  check_matrix(op, "anchors", anchors, 4);
  FV_CHECK(deltas.dim() == 2 && deltas.size(0) == anchors.size(0) && deltas.size(1) % 4 == 0, op,
           "expected deltas of shape [", anchors.size(0), ", 4 k] to match anchors ", shape_of(anchors), ", got ",
           shape_of(deltas));
  check_floating(op, "deltas", deltas);
  check_real(op, "anchors", anchors);
  check_same_device(op, "anchors", anchors, "deltas", deltas);
  validate_weights(op, weights);
  FV_CHECK(clip_to.empty() || (clip_to.size() == 2 && clip_to[0] >= 0 && clip_to[1] >= 0), op,
           "expected clip_to as (height, width), both >= 0");
}

// Per-row bodies; plain structs so that a CUDA kernel can take them by value. k: codes an anchor.
template <class T>
struct EncodeRow {
  Coder<T> coder;
  const T *boxes, *anchors;
  T* out;
  FV_HOST_DEVICE void operator()(int64_t i) const { encode(coder, boxes + 4 * i, anchors + 4 * i, out + 4 * i); }
};

template <class T>
struct EncodeBackwardRow {
  Coder<T> coder;
  const T *grad, *boxes, *anchors;
  T *to_boxes, *to_anchors;
  FV_HOST_DEVICE void operator()(int64_t i) const {
    encode_backward(coder, grad + 4 * i, boxes + 4 * i, anchors + 4 * i, to_boxes + 4 * i, to_anchors + 4 * i);
  }
};

template <class T>
struct DecodeRow {
  Coder<T> coder;
  const T *deltas, *anchors;
  T* out;
  int64_t k;
  FV_HOST_DEVICE void operator()(int64_t i) const {  // i: one code
    decode(coder, deltas + 4 * i, anchors + 4 * (i / k), out + 4 * i);
  }
};

template <class T>
struct DecodeBackwardRow {
  Coder<T> coder;
  const T *grad, *deltas, *anchors;
  T *to_deltas, *to_anchors;
  int64_t k;
  FV_HOST_DEVICE void operator()(int64_t i) const {  // i: one anchor
    decode_backward(coder, grad + 4 * k * i, deltas + 4 * k * i, anchors + 4 * i, k, to_deltas + 4 * k * i,
                    to_anchors + 4 * i);
  }
};

inline Tensor like(const Tensor& shape, ScalarType type) { return empty_tensor(shape, shape.sizes(), type); }

template <class Rows>
Tensor encode_boxes(const Tensor& boxes, const Tensor& anchors, std::vector<double> weights) {
  constexpr const char* kOp = "encode_boxes";
  validate_encode(kOp, boxes, anchors, weights);
  const ScalarType type = geometry_type(boxes, anchors);
  const Tensor b = contiguous_as(boxes, type), a = contiguous_as(anchors, type);
  Tensor out = like(b, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    Rows::run(kOp, b, b.size(0),
              EncodeRow<T>{make_coder<T>(weights, 0, {}), b.const_data_ptr<T>(), a.const_data_ptr<T>(),
                           out.mutable_data_ptr<T>()});
  });
  return as_type(out, stored_type(boxes));
}

template <class Rows>
std::tuple<Tensor, Tensor> encode_boxes_backward(const Tensor& grad, const Tensor& boxes, const Tensor& anchors,
                                                 std::vector<double> weights) {
  constexpr const char* kOp = "encode_boxes_backward";
  validate_encode(kOp, boxes, anchors, weights);
  check_matrix(kOp, "grad", grad, 4);
  const ScalarType type = geometry_type(boxes, anchors);
  const Tensor g = contiguous_as(grad, type), b = contiguous_as(boxes, type), a = contiguous_as(anchors, type);
  Tensor to_boxes = like(b, type), to_anchors = like(a, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    Rows::run(
        kOp, b, b.size(0),
        EncodeBackwardRow<T>{make_coder<T>(weights, 0, {}), g.const_data_ptr<T>(), b.const_data_ptr<T>(),
                             a.const_data_ptr<T>(), to_boxes.mutable_data_ptr<T>(), to_anchors.mutable_data_ptr<T>()});
  });
  return {as_type(to_boxes, boxes.scalar_type()), as_type(to_anchors, anchors.scalar_type())};
}

template <class Rows>
Tensor decode_boxes(const Tensor& deltas, const Tensor& anchors, std::vector<double> weights, double scale_clamp,
                    std::vector<double> clip_to) {
  constexpr const char* kOp = "decode_boxes";
  validate_decode(kOp, deltas, anchors, weights, clip_to);
  const ScalarType type = geometry_type(deltas, anchors);
  const Tensor d = contiguous_as(deltas, type), a = contiguous_as(anchors, type);
  Tensor out = like(d, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const int64_t k = d.size(1) / 4;
    Rows::run(kOp, d, d.size(0) * k,
              DecodeRow<T>{make_coder<T>(weights, scale_clamp, clip_to), d.const_data_ptr<T>(), a.const_data_ptr<T>(),
                           out.mutable_data_ptr<T>(), k});
  });
  return as_type(out, deltas.scalar_type());
}

template <class Rows>
std::tuple<Tensor, Tensor> decode_boxes_backward(const Tensor& grad, const Tensor& deltas, const Tensor& anchors,
                                                 std::vector<double> weights, double scale_clamp,
                                                 std::vector<double> clip_to) {
  constexpr const char* kOp = "decode_boxes_backward";
  validate_decode(kOp, deltas, anchors, weights, clip_to);
  FV_CHECK(grad.dim() == 2 && grad.size(0) == deltas.size(0) && grad.size(1) == deltas.size(1), kOp,
           "expected grad of shape ", shape_of(deltas), ", got ", shape_of(grad));
  const ScalarType type = geometry_type(deltas, anchors);
  const Tensor g = contiguous_as(grad, type), d = contiguous_as(deltas, type), a = contiguous_as(anchors, type);
  Tensor to_deltas = like(d, type), to_anchors = like(a, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    Rows::run(kOp, d, a.size(0),
              DecodeBackwardRow<T>{make_coder<T>(weights, scale_clamp, clip_to), g.const_data_ptr<T>(),
                                   d.const_data_ptr<T>(), a.const_data_ptr<T>(), to_deltas.mutable_data_ptr<T>(),
                                   to_anchors.mutable_data_ptr<T>(), d.size(1) / 4});
  });
  return {as_type(to_deltas, deltas.scalar_type()), as_type(to_anchors, anchors.scalar_type())};
}

template <class Rows>
void register_ops(torch::stable::detail::StableLibrary& m) {
  m.impl("encode_boxes", TORCH_BOX(&encode_boxes<Rows>));
  m.impl("encode_boxes_backward", TORCH_BOX(&encode_boxes_backward<Rows>));
  m.impl("decode_boxes", TORCH_BOX(&decode_boxes<Rows>));
  m.impl("decode_boxes_backward", TORCH_BOX(&decode_boxes_backward<Rows>));
}

}  // namespace fastvision::box_coder
