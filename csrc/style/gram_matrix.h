// Gram matrices of feature maps: gram[b][i][j] = scale * sum_p features[b][i][p] * features[b][j][p] (Gatys et al.
// 2016, eq. 3), their gradient, and the loss between two of them (eq. 4).
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "common/dispatch.h"
#include "common/layout.h"

namespace fastvision::gram_matrix {

// features [batch, channels, pixels]; channels_last: pixels outermost
struct Params {
  int64_t batch, channels, pixels;
  bool channels_last;
};

inline Params make_params(const char* op, const Tensor& features) {
  const IntHeaderOnlyArrayRef sizes = features.sizes();
  FV_CHECK(sizes.size() == 4, op, "expected features of shape [B, C, H, W], got ", shape_of(features));
  check_floating(op, "features", features);
  return {sizes[0], sizes[1], sizes[2] * sizes[3], is_channels_last(features)};
}

// An integer, because a compiler keeps sizes symbolic, but no number made of them.
inline double scale_of(int64_t divisor) { return 1.0 / double(std::max<int64_t>(divisor, 1)); }

// The map itself where it is dense in either order (or no map at all, which is found later), a copy in the order of
// make_params elsewhere.
inline Tensor dense(const Tensor& features) {
  const bool in_place = features.dim() != 4 || features.is_contiguous() || is_channels_last(features);
  return in_place ? features : torch::stable::contiguous(features);
}

inline Params check_backward(const char* op, const Tensor& grad, const Tensor& features) {
  const Params p = make_params(op, features);
  FV_CHECK(grad.dim() == 3 && grad.size(0) == p.batch && grad.size(1) == p.channels && grad.size(2) == p.channels, op,
           "expected grad of shape [", p.batch, ", ", p.channels, ", ", p.channels, "], got ", shape_of(grad));
  check_floating(op, "grad", grad);
  check_same_device(op, "grad", grad, "features", features);
  return p;
}

// One layer's target: [C, C] for all images, or [B, C, C].
inline void check_target(const char* op, const Tensor& target, const Params& p, size_t layer) {
  const IntHeaderOnlyArrayRef sizes = target.sizes();
  const size_t dims = sizes.size();
  const bool square = (dims == 2 || (dims == 3 && sizes[0] == p.batch)) && sizes[dims - 1] == p.channels &&
                      sizes[dims - 2] == p.channels;
  FV_CHECK(square, op, "expected the target of layer ", layer, " to be a Gram matrix [", p.channels, ", ", p.channels,
           "], or ", p.batch, " of them, got ", shape_of(target));
  check_floating(op, "targets", target);
}

inline std::vector<Params> check_layers(const char* op, const std::vector<Tensor>& features,
                                        const std::vector<Tensor>& targets, const std::vector<double>& weights,
                                        const std::vector<int64_t>& divisors) {
  FV_CHECK(!features.empty(), op, "expected at least one layer");
  FV_CHECK(targets.size() == features.size() && weights.size() == features.size() && divisors.size() == features.size(),
           op, "expected as many targets and weights as features, got ", features.size(), " features, ", targets.size(),
           " targets and ", weights.size(), " weights");
  std::vector<Params> layers;
  layers.reserve(features.size());
  for (size_t l = 0; l < features.size(); ++l) {
    layers.push_back(make_params(op, features[l]));
    check_target(op, targets[l], layers[l], l);
    check_same_device(op, "targets", targets[l], "features", features[l]);
    if (l > 0) check_same_device(op, "features", features[l], "the first layer", features[0]);
  }
  return layers;
}

// The gradient of a layer's features: scale * grad * (difference + difference^T) features, grad being that of the loss,
// or 1 where there is none.
struct Flow {
  Params p;
  int64_t first;  // where the layer's differences [B, C, C] begin among those of all
  double scale;
};

// layers: those whose gradient is wanted
inline std::vector<Flow> check_flows(const char* op, const std::optional<Tensor>& grad, const Tensor& differences,
                                     const std::vector<Tensor>& features, const std::vector<double>& weights,
                                     const std::vector<int64_t>& divisors, const std::vector<int64_t>& layers) {
  FV_CHECK(!features.empty() && weights.size() == features.size() && divisors.size() == features.size(), op,
           "expected as many weights and divisors as features, got ", features.size(), " features, ", weights.size(),
           " weights and ", divisors.size(), " divisors");
  std::vector<Flow> flows;
  flows.reserve(features.size());
  int64_t size = 0;
  for (size_t l = 0; l < features.size(); ++l) {
    const Params p = make_params(op, features[l]);
    if (l > 0) check_same_device(op, "features", features[l], "the first layer", features[0]);
    flows.push_back({p, size, 2 * weights[l] / double(std::max<int64_t>(p.batch, 1)) * scale_of(divisors[l])});
    size += p.batch * p.channels * p.channels;
  }
  for (const int64_t l : layers) {
    FV_CHECK(l >= 0 && l < int64_t(features.size()), op, "expected layers in [0, ", features.size(), "), got ", l);
  }
  FV_CHECK(differences.dim() == 1 && differences.size(0) == size, op, "expected differences of shape [", size,
           "], got ", shape_of(differences));
  const ScalarType type = differences.scalar_type();
  const bool number = !grad || (grad->numel() == 1 && grad->scalar_type() == type);
  FV_CHECK(number && (type == ScalarType::Float || type == ScalarType::Double), op,
           "expected grad and differences of one dtype, float32 or float64, and a number for grad");
  if (grad) check_same_device(op, "grad", *grad, "features", features[0]);
  check_same_device(op, "differences", differences, "features", features[0]);
  return flows;
}

// A layer whose gradient is wanted, with pointers to its differences and to the gradient of the loss, if there is one,
// where they lie.
template <class G>
struct LayerFlow {
  Params p;
  Tensor features;  // dense
  const G *difference, *above;
  double scale;
};

// style_loss_backward: to_features(op, std::vector<LayerFlow<G>>) of `layers`
template <class ToFeatures>
std::vector<Tensor> gradients_of_layers(const std::optional<Tensor>& grad, const Tensor& differences,
                                        const std::vector<Tensor>& features, const std::vector<double>& weights,
                                        const std::vector<int64_t>& divisors, const std::vector<int64_t>& layers,
                                        const ToFeatures& to_features) {
  constexpr const char* kOp = "style_loss_backward";
  const std::vector<Flow> flows = check_flows(kOp, grad, differences, features, weights, divisors, layers);
  const Tensor flat = contiguous_as(differences, differences.scalar_type());
  std::vector<Tensor> out;
  dispatch_geometry(differences.scalar_type(), [&](auto t) {
    using G = typename decltype(t)::type;
    const G *difference = flat.const_data_ptr<G>(), *above = grad ? grad->const_data_ptr<G>() : nullptr;
    std::vector<LayerFlow<G>> wanted;
    wanted.reserve(layers.size());
    for (const int64_t l : layers) {
      const Flow& flow = flows[size_t(l)];
      wanted.push_back({flow.p, dense(features[size_t(l)]), difference + flow.first, above, flow.scale});
    }
    out = to_features(kOp, wanted);
  });
  return out;
}

// style_loss_scale_: gradients of one dtype, float32 or float64, each dense in some order, and a number.
inline ScalarType check_scaled(const char* op, const std::vector<Tensor>& gradients, const Tensor& factor) {
  const ScalarType type = factor.scalar_type();
  FV_CHECK(factor.numel() == 1 && (type == ScalarType::Float || type == ScalarType::Double), op,
           "expected a number for factor, float32 or float64");
  for (const Tensor& gradient : gradients) {
    FV_CHECK(gradient.scalar_type() == type && (gradient.is_contiguous() || is_channels_last(gradient)), op,
             "expected dense gradients of the dtype of factor");
    check_same_device(op, "gradients", gradient, "factor", factor);
  }
  return type;
}

// float64 if any layer is.
inline ScalarType loss_type(const std::vector<Tensor>& features) {
  for (const Tensor& f : features) {
    if (f.scalar_type() == ScalarType::Double) return ScalarType::Double;
  }
  return ScalarType::Float;
}

}  // namespace fastvision::gram_matrix
