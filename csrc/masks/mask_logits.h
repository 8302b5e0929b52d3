// The tail of Mask R-CNN's mask head (He et al. 2017, figure 4): a 2 x 2 transposed convolution of stride 2, ReLU, and
// of the 1 x 1 convolution that follows only the map of one class a roi.
//
// The windows of a 2 x 2 convolution of stride 2 do not overlap: each of its four positions (a, b) is a matrix product,
//   out[r, 2y + a, 2x + b] = class_bias[l] + sum_o class_weight[l, o] relu(bias[o] + sum_c f[r, c, y, x] w[c, o, a,
//   b]),
// and the hidden map, 2.6 times as large as the features and 256 times as large as the result, need not be stored (on
// the CPU; on CUDA cuDNN's convolution is worth storing it).
#pragma once

#include "common/activation.h"
#include "common/dispatch.h"
#include "common/host_device.h"
#include "common/layout.h"

namespace fastvision::mask_logits {

constexpr const char* kOp = "mask_logits";
constexpr int kPhases = 4;  // (a, b) = (phase / 2, phase % 2)

struct Params {
  int64_t rois, channels, height, width;  // of the features
  int64_t hidden, classes;

  FV_HOST_DEVICE int64_t pixels() const { return height * width; }
  FV_HOST_DEVICE int64_t place(int64_t roi, int64_t y, int64_t x, int phase) const {
    return ((roi * height + y) * 2 + phase / 2) * 2 * width + 2 * x + phase % 2;
  }
};

// The parameters of the layers, contiguous and of the type that sums are kept in.
template <class T>
struct Layers {
  const T* weight;        // [channels, hidden, 2, 2]
  const T* bias;          // [hidden]
  const T* class_weight;  // [classes, hidden]
  const T* class_bias;    // [classes]
  const int64_t* labels;  // [rois]
};

// Tensors behind Layers.
struct Inputs {
  Tensor weight, bias, class_weight, class_bias, labels;

  template <class T>
  Layers<T> layers() const {
    return {weight.const_data_ptr<T>(), bias.const_data_ptr<T>(), class_weight.const_data_ptr<T>(),
            class_bias.const_data_ptr<T>(), labels.const_data_ptr<int64_t>()};
  }
};

inline Params make_params(const Tensor& features, const Inputs& in) {
  FV_CHECK(features.dim() == 4, kOp, "expected features of shape [R, C, H, W], got ", shape_of(features));
  FV_CHECK(
      in.weight.dim() == 4 && in.weight.size(0) == features.size(1) && in.weight.size(2) == 2 && in.weight.size(3) == 2,
      kOp, "expected a weight of shape [", features.size(1), ", O, 2, 2], got ", shape_of(in.weight));
  const int64_t hidden = in.weight.size(1);
  FV_CHECK(in.bias.dim() == 1 && in.bias.size(0) == hidden, kOp, "expected a bias of shape [", hidden, "], got ",
           shape_of(in.bias));
  FV_CHECK(in.class_weight.dim() == 2 && in.class_weight.size(1) == hidden, kOp,
           "expected a class_weight of shape [K, ", hidden, "], got ", shape_of(in.class_weight));
  const int64_t classes = in.class_weight.size(0);
  FV_CHECK(in.class_bias.dim() == 1 && in.class_bias.size(0) == classes, kOp, "expected a class_bias of shape [",
           classes, "], got ", shape_of(in.class_bias));
  FV_CHECK(in.labels.dim() == 1 && in.labels.size(0) == features.size(0), kOp, "expected labels of shape [",
           features.size(0), "], got ", shape_of(in.labels));
  FV_CHECK(in.labels.scalar_type() == ScalarType::Long, kOp, "expected labels of dtype int64");
  check_floating(kOp, "features", features);
  const std::pair<const char*, const Tensor*> rest[] = {{"weight", &in.weight},
                                                        {"bias", &in.bias},
                                                        {"class_weight", &in.class_weight},
                                                        {"class_bias", &in.class_bias},
                                                        {"labels", &in.labels}};
  for (const auto& [name, tensor] : rest) {
    if (tensor != &in.labels) check_floating(kOp, name, *tensor);
    check_same_device(kOp, name, *tensor, "features", features);
  }
  return {features.size(0), features.size(1), features.size(2), features.size(3), hidden, classes};
}

inline Inputs contiguous_inputs(const Inputs& in, ScalarType type) {
  return {contiguous_as(in.weight, type), contiguous_as(in.bias, type), contiguous_as(in.class_weight, type),
          contiguous_as(in.class_bias, type), contiguous_as(in.labels, ScalarType::Long)};
}

inline Tensor empty_output(const Params& p, const Tensor& features) {
  return empty_tensor(features, {p.rois, 2 * p.height, 2 * p.width});
}

}  // namespace fastvision::mask_logits
