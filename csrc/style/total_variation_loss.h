// Total variation of images: sums over neighbouring pixels, right and below, of squared differences (Mahendran &
// Vedaldi 2015, section 3, beta = 2) or of absolute ones.
#pragma once

#include <cmath>
#include <string>

#include "common/dispatch.h"
#include "common/layout.h"
#include "common/scalar.h"

namespace fastvision::total_variation_loss {

// Of one difference: what it adds, and its derivative.
struct L1 {
  template <class T>
  FV_HOST_DEVICE static T term(T difference) {
    return std::abs(difference);
  }
  // 0 at 0; NaN stays
  template <class T>
  FV_HOST_DEVICE static T derivative(T difference) {
    return difference > 0 ? T(1) : difference < 0 ? T(-1) : difference;
  }
};

struct L2 {
  template <class T>
  FV_HOST_DEVICE static T term(T difference) {
    return difference * difference;
  }
  template <class T>
  FV_HOST_DEVICE static T derivative(T difference) {
    return 2 * difference;
  }
};

// Calls f(L1{}) or f(L2{}).
template <class F>
auto dispatch_norm(const char* op, const std::string& norm, F f) {
  FV_CHECK(norm == "l1" || norm == "l2", op, "expected norm \"l1\" or \"l2\", got \"", norm, '"');
  return norm == "l1" ? f(L1{}) : f(L2{});
}

// Losses are float32, of float64 images float64: a sum over an image would overflow half types.
inline ScalarType loss_type(const Tensor& images) { return geometry_type(images.scalar_type()); }

// images [N, C, H, W]
inline void check_images(const char* op, const Tensor& images) {
  FV_CHECK(images.dim() == 4, op, "expected images of shape [N, C, H, W], got ", shape_of(images));
  check_floating(op, "images", images);
}

// grad [N]
inline void check_backward(const char* op, const Tensor& grad, const Tensor& images) {
  check_images(op, images);
  FV_CHECK(grad.dim() == 1 && grad.size(0) == images.size(0) && grad.scalar_type() == loss_type(images), op,
           "expected grad of shape [", images.size(0), "] and the dtype of the loss, got ", shape_of(grad));
  check_same_device(op, "grad", grad, "images", images);
}

inline Tensor map_like(const Tensor& images) {
  return empty_map(images, images.size(0), images.size(1), images.size(2), images.size(3), is_channels_last(images));
}

}  // namespace fastvision::total_variation_loss
