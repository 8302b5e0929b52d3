// Instance normalisation (Ulyanov et al. 2016), plain or conditional (Dumoulin et al. 2017): maths and checks.
//
// Of each plane x of n pixels, with mean m, biased variance v, r = 1 / sqrt(v + eps), weight w and bias b:
//   z = (x - m) r w + b,  y = z where z > 0, slope z elsewhere: slope 1 is no activation, 0 is ReLU.
// Backward, with g' = dy/dz g and h = (x - m) r:
//   to bias  sum g',  to weight  sum g' h,  to x  r w (g' - (sum g') / n - h (sum g' h) / n)
#pragma once

#include <cmath>
#include <optional>
#include <tuple>

#include "common/activation.h"
#include "common/dispatch.h"
#include "style/planes.h"

namespace fastvision::instance_norm {

// Moments are float64 throughout: [N, C] numbers, and half a unit of a float32 mean of 1e4 is 5e-4, much beside a
// standard deviation of 1. They come from blocks of values: the moments of a block about its own approximate mean,
// merged as in Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
struct Moments {
  double mean, squares;  // squares: sum of squared deviations from the mean
};

// Of `count` values whose deviations from `about` sum to `sum`, and squared to `squares`.
FV_HOST_DEVICE Moments moments_about(double about, double sum, double squares, double count) {
  const double offset = sum * (1 / count), rest = squares - sum * offset;
  return {about + offset, rest < 0 ? 0 : rest};
}

FV_HOST_DEVICE Moments merged(const Moments& a, double a_count, const Moments& b, double b_count) {
  const double share = b_count / (a_count + b_count), delta = b.mean - a.mean;
  return {a.mean + delta * share, a.squares + b.squares + delta * delta * (a_count * share)};
}

FV_HOST_DEVICE double rstd_of(const Moments& moments, int64_t count, double eps) {
  return 1 / std::sqrt(moments.squares / double(count) + eps);
}

// z = (x - mean) scale + shift. The mean is rounded to T; the shift makes up for it.
template <class T>
struct Line {
  T mean, scale, shift;
};

template <class T>
FV_HOST_DEVICE Line<T> line_of(double mean, double rstd, double weight, double bias) {
  const T rounded = T(mean);
  const double scale = rstd * weight;
  return {rounded, T(scale), T(bias - (mean - double(rounded)) * scale)};
}

// V: T, or several side by side.
template <class V>
FV_HOST_DEVICE_ALWAYS V line_at(V x, V mean, V scale, V shift) {
  return (x - mean) * scale + shift;
}

// Of a plane: sum of g', and of g' h.
struct GradientSums {
  double grad, product;
};

// product: sum of g' (x - rounded mean)
template <class T>
FV_HOST_DEVICE GradientSums gradient_sums(double grad, double product, double mean, double rstd) {
  return {grad, rstd * (product - (mean - double(T(mean))) * grad)};
}

// to x = scale (g' + by_deviation (x - mean) + constant), mean and scale as in Line: without the scale inside, what
// cancels cancels exactly, in a plane of one pixel for instance.
template <class T>
struct GradientLine {
  T by_deviation, constant;
};

template <class T>
FV_HOST_DEVICE GradientLine<T> gradient_line_of(const GradientSums& sums, double mean, double rstd, int64_t count) {
  const double slope = rstd * sums.product / double(count);
  return {T(-slope), T(slope * (mean - double(T(mean))) - sums.grad / double(count))};
}

// V: T, or several side by side.
template <class V>
FV_HOST_DEVICE_ALWAYS V gradient_at(V flowing, V deviation, V scale, V by_deviation, V constant) {
  return scale * (flowing + (by_deviation * deviation + constant));
}

// Weight and bias of each plane.
template <class T>
struct Affine {
  const T *weight, *bias;  // [C], with styles [S, C]; or null: 1 and 0
  const int64_t* style;    // [N], or null
  int64_t styles, channels;

  // Of an image; -1 where its style does not exist.
  FV_HOST_DEVICE int64_t row(int64_t image) const {
    const int64_t row = style ? style[image] : 0;
    return row >= 0 && row < styles ? row : -1;
  }
  FV_HOST_DEVICE double weight_at(int64_t row, int64_t channel) const {
    return weight ? double(weight[row * channels + channel]) : 1;
  }
  FV_HOST_DEVICE double bias_at(int64_t row, int64_t channel) const {
    return bias ? double(bias[row * channels + channel]) : 0;
  }
};

using Optional = std::optional<Tensor>;

// The tensors behind Affine, contiguous, in the accumulator's type.
struct AffineTensors {
  Optional weight, bias, style;
  int64_t styles, channels;

  template <class T>
  Affine<T> view() const {
    return {weight ? weight->const_data_ptr<T>() : nullptr, bias ? bias->const_data_ptr<T>() : nullptr,
            style ? style->const_data_ptr<int64_t>() : nullptr, styles, channels};
  }
};

inline void check_affine(const char* op, const char* name, const Optional& values, const Tensor& input, bool styled) {
  if (!values) return;
  check_floating(op, name, *values);
  check_same_device(op, name, *values, "input", input);
  const int64_t channels = input.size(1), dims = styled ? 2 : 1;
  FV_CHECK(values->dim() == dims && values->size(dims - 1) == channels, op, "expected ", name, " of shape [",
           styled ? "S, " : "", channels, "], got ", shape_of(*values));
}

// input [N, C, H, W]
inline AffineTensors checked(const char* op, const Tensor& input, const Optional& weight, const Optional& bias,
                             const Optional& style) {
  FV_CHECK(input.dim() == 4, op, "expected input of shape [N, C, H, W], got ", shape_of(input));
  check_floating(op, "input", input);
  check_affine(op, "weight", weight, input, style.has_value());
  check_affine(op, "bias", bias, input, style.has_value());
  const ScalarType type = geometry_type(input.scalar_type());
  AffineTensors affine{std::nullopt, std::nullopt, std::nullopt, 1, input.size(1)};
  if (weight) affine.weight = contiguous_as(*weight, type);
  if (bias) affine.bias = contiguous_as(*bias, type);
  if (!style) return affine;
  FV_CHECK(weight || bias, op, "expected weight or bias with style, got neither");
  FV_CHECK(!(weight && bias) || weight->size(0) == bias->size(0), op,
           "expected weight and bias of as many styles, got ", shape_of(*weight), " and ", shape_of(*bias));
  FV_CHECK(style->dim() == 1 && style->size(0) == input.size(0) && style->scalar_type() == ScalarType::Long, op,
           "expected style of shape [", input.size(0), "] and dtype int64, got ", shape_of(*style));
  check_same_device(op, "style", *style, "input", input);
  affine.style = contiguous_as(*style, ScalarType::Long);
  affine.styles = (weight ? *weight : *bias).size(0);
  return affine;
}

[[noreturn]] inline void fail_style(const char* op, int64_t image, int64_t style, int64_t styles) {
  fail<std::out_of_range>(op, "expected style[", image, "] in [0, ", styles, "), got ", style);
}

// grad as input; mean, rstd [N, C]
inline void check_backward(const char* op, const Tensor& grad, const Tensor& input, const Tensor& mean,
                           const Tensor& rstd) {
  FV_CHECK(same_shape(grad, input) && grad.scalar_type() == input.scalar_type(), op,
           "expected grad of the shape and dtype of input, ", shape_of(input), ", got ", shape_of(grad));
  check_same_device(op, "grad", grad, "input", input);
  for (const Tensor* statistic : {&mean, &rstd}) {
    FV_CHECK(statistic->dim() == 2 && statistic->size(0) == input.size(0) && statistic->size(1) == input.size(1) &&
                 statistic->scalar_type() == ScalarType::Double,
             op, "expected mean and rstd of shape [", input.size(0), ", ", input.size(1), "] and dtype float64, got ",
             shape_of(*statistic));
    check_same_device(op, "mean and rstd", *statistic, "input", input);
  }
}

// (output, mean [N, C], rstd [N, C])
inline std::tuple<Tensor, Tensor, Tensor> empty_outputs(const Tensor& input) {
  const int64_t planes[] = {input.size(0), input.size(1)}, step[] = {std::max<int64_t>(planes[1], 1), 1};
  return {empty_map(input, input.size(0), input.size(1), input.size(2), input.size(3), is_channels_last(input)),
          empty_strided(input, 2, planes, step, ScalarType::Double),
          empty_strided(input, 2, planes, step, ScalarType::Double)};
}

// Zeros in the shape of weight or bias, float64 for the sums; [0] where there is none.
inline Tensor affine_sums(const Tensor& input, const Optional& like) {
  std::vector<int64_t> sizes{0};
  if (like) sizes.assign(like->sizes().begin(), like->sizes().end());
  return clear_tensor(empty_tensor(input, sizes, ScalarType::Double));
}

inline Tensor as_stored(const Tensor& sums, const Tensor& input, const Optional& like) {
  return as_type(sums, like ? like->scalar_type() : input.scalar_type());
}

}  // namespace fastvision::instance_norm
