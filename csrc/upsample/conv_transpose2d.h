// Transposed convolution: out[o][i * stride + k * dilation - padding] += sum_c in[c][i] * weight[c][o][k], per axis.
//
// Read the other way round: an output position lies `stride * q + r` behind the start of the padded output, and takes
// from input position q - t for each tap k with k * dilation = r + t * stride. So every residue r, a sub-pixel phase,
// is an ordinary convolution with a part of the kernel's taps (Shi et al. 2016, "Is the deconvolution layer the same as
// a convolutional layer?").
#pragma once

#include <vector>

#include "common/activation.h"
#include "common/layout.h"

namespace fastvision::conv_transpose2d {

// One axis of one call.
struct Axis {
  int64_t in, out, kernel, stride, padding, dilation;

  // Phase of a tap, and how many input positions before q it reads.
  FV_HOST_DEVICE int64_t phase(int64_t k) const { return k * dilation % stride; }
  FV_HOST_DEVICE int64_t shift(int64_t k) const { return k * dilation / stride; }
  FV_HOST_DEVICE int64_t most_shift() const { return (kernel - 1) * dilation / stride; }
  // Values of q that reach the output.
  FV_HOST_DEVICE int64_t positions() const { return (out - 1 + padding) / stride + 1; }
};

// input [batch, channels, y.in, x.in], weight [channels, outputs / groups, y.kernel, x.kernel]
struct Params {
  int64_t batch, channels, outputs, groups;
  Axis y, x;

  FV_HOST_DEVICE int64_t group_channels() const { return channels / groups; }
  FV_HOST_DEVICE int64_t group_outputs() const { return outputs / groups; }
  // numbers of a whole map
  FV_HOST_DEVICE int64_t input_size() const { return batch * channels * y.in * x.in; }
  FV_HOST_DEVICE int64_t output_size() const { return batch * outputs * y.out * x.out; }
};

inline Axis axis_of(const char* op, int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t output_padding,
                    int64_t dilation) {
  FV_CHECK(stride > 0 && dilation > 0, op, "expected stride and dilation > 0, got ", stride, " and ", dilation);
  FV_CHECK(padding >= 0 && output_padding >= 0, op, "expected padding and output_padding >= 0, got ", padding, " and ",
           output_padding);
  FV_CHECK(output_padding < stride || output_padding < dilation, op,
           "expected output_padding below stride or dilation, got ", output_padding, " with stride ", stride,
           " and dilation ", dilation);
  FV_CHECK(kernel > 0, op, "expected a kernel of at least one tap");
  const int64_t out = (in - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1;
  FV_CHECK(in > 0 && out > 0, op, "expected a non-empty output, got a side of ", out, " from an input side of ", in);
  return {in, out, kernel, stride, padding, dilation};
}

// stride, padding, output_padding and dilation, each of rows and of columns, and the groups. One list, because each
// costs a call a microsecond.
constexpr size_t kGeometry = 9;

inline void check_layer(const char* op, const char* name, const Tensor& map, const char* other_name,
                        const Tensor& other, const std::vector<int64_t>& geometry) {
  check_floating(op, name, map);
  FV_CHECK(other.scalar_type() == map.scalar_type(), op, "expected ", other_name, " of the dtype of ", name);
  check_same_device(op, other_name, other, name, map);
  FV_CHECK(geometry.size() == kGeometry, op,
           "expected stride, padding, output_padding and dilation of rows and columns, and groups: 9 numbers, got ",
           geometry.size());
}

inline Params make_params(const char* op, const Tensor& input, const Tensor& weight,
                          const std::vector<int64_t>& geometry) {
  FV_CHECK(input.dim() == 4, op, "expected input of shape [N, C, H, W], got ", shape_of(input));
  FV_CHECK(weight.dim() == 4, op, "expected weight of shape [C, O / groups, kh, kw], got ", shape_of(weight));
  check_layer(op, "input", input, "weight", weight, geometry);
  const int64_t groups = geometry[8];
  FV_CHECK(input.size(1) > 0, op, "expected at least one input channel, got ", shape_of(input));
  FV_CHECK(groups > 0 && input.size(1) % groups == 0, op, "expected groups to divide the ", input.size(1),
           " input channels, got ", groups);
  FV_CHECK(weight.size(0) == input.size(1), op, "expected weight of shape [", input.size(1),
           ", O / groups, kh, kw] for input ", shape_of(input), ", got ", shape_of(weight));
  const auto axis = [&](int d) {
    return axis_of(op, input.size(2 + d), weight.size(2 + d), geometry[d], geometry[2 + d], geometry[4 + d],
                   geometry[6 + d]);
  };
  return {input.size(0), input.size(1), weight.size(1) * groups, groups, axis(0), axis(1)};
}

// Of a gradient: the output's size is known, and of input and weight `other`.
inline Params gradient_params(const char* op, const Tensor& grad, const char* name, const Tensor& other, bool is_weight,
                              const std::vector<int64_t>& geometry) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [N, O, H, W], got ", shape_of(grad));
  FV_CHECK(other.dim() == 4, op, "expected ", name, " of 4 dimensions, got ", shape_of(other));
  check_layer(op, "grad", grad, name, other, geometry);
  const int64_t groups = geometry[8], channels = other.size(is_weight ? 0 : 1), outputs = grad.size(1);
  FV_CHECK(groups > 0 && channels > 0 && channels % groups == 0 && outputs % groups == 0 &&
               (is_weight ? other.size(1) * groups == outputs : other.size(0) == grad.size(0)),
           op, "expected grad and ", name, " of one layer of ", groups, " groups, got ", shape_of(grad), " and ",
           shape_of(other));
  const auto axis = [&](int d) {
    const int64_t out = grad.size(2 + d), known = other.size(2 + d), stride = geometry[d], dilation = geometry[6 + d];
    const int64_t one = is_weight ? stride : dilation,
                  all = is_weight ? dilation : stride;  // of the unknown, the known
    const int64_t span = out - 1 - geometry[4 + d] + 2 * geometry[2 + d] - all * (known - 1);
    FV_CHECK(one > 0 && span >= 0 && span % one == 0, op, "expected grad and ", name, " of one layer, got ",
             shape_of(grad), " and ", shape_of(other));
    const int64_t unknown = span / one + 1;
    return axis_of(op, is_weight ? unknown : known, is_weight ? known : unknown, stride, geometry[2 + d],
                   geometry[4 + d], dilation);
  };
  return {grad.size(0), channels, outputs, groups, axis(0), axis(1)};
}

inline void check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& input, int64_t outputs) {
  if (!bias) return;
  FV_CHECK(bias->dim() == 1 && bias->size(0) == outputs, op, "expected bias of shape [", outputs, "], got ",
           shape_of(*bias));
  FV_CHECK(bias->scalar_type() == input.scalar_type(), op, "expected bias of the dtype of input");
  check_same_device(op, "bias", *bias, "input", input);
}

}  // namespace fastvision::conv_transpose2d
