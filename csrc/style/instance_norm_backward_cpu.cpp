// The gradients of instance_norm on the CPU: input and gradient are read for two sums, and once more, from cache if
// they fit there, when the gradient of the input is written.
#include <torch/csrc/stable/library.h>

#include "common/memory.h"
#include "style/instance_norm_cpu.h"

namespace fastvision::instance_norm {
namespace {

// map, grad: pixel 0 of a chunk. grads, products [channels]: sums of g' and of g' (x - mean).
template <int kBytes, class T, class S>
[[gnu::always_inline]] inline void measure_gradient(RegisterBytes<kBytes> bytes, const S* map, const S* grad,
                                                    int64_t pixels, int64_t channels, const Tile& tile,
                                                    const Lines<T>& lines, T slope, double* __restrict grads,
                                                    double* __restrict products) {
  map += tile.first, grad += tile.first, grads += tile.first, products += tile.first;
  std::fill_n(grads, tile.channels, 0.0), std::fill_n(products, tile.channels, 0.0);
  for (int64_t p = 0; p < pixels; p += tile.block) {
    const S *x = map + p * channels, *g = grad + p * channels;
    T sums[2][kLanes];
    style::sum_block<2>(
        bytes, std::min(tile.block, pixels - p), channels, tile, sums,
        [&](auto registers, int64_t lane) __attribute__((always_inline)) { return lines.at(registers, lane); },
        [&](auto registers, const auto& line, int64_t at, auto* totals) __attribute__((always_inline)) {
          style::prefetch_ahead(x + at), style::prefetch_ahead(g + at);
          const auto value = registers.load_part(x + at), z = line_at(value, line.mean, line.scale, line.shift);
          const auto flowing = activated(z, registers.load_part(g + at), slope);
          totals[0] += flowing, totals[1] += flowing * (value - line.mean);
        });
    style::fold(sums[0], tile), style::fold(sums[1], tile);
    for (int64_t c = 0; c < tile.channels; ++c) grads[c] += sums[0][c], products[c] += sums[1][c];
  }
}

// The gradient lines of a tile, spread over its row.
template <class T>
struct GradientLines {
  T by_deviation[kLanes], constant[kLanes];

  // of the lanes from `lane` on
  template <class Registers>
  [[gnu::always_inline]] GradientLine<typename Registers::Part> at(Registers, int64_t lane) const {
    return {Registers::load_part(by_deviation + lane), Registers::load_part(constant + lane)};
  }
};

// sums, mean, rstd: of all planes; plane: the first of the group
template <class T>
[[gnu::always_inline]] inline GradientLines<T> gradient_lines_of(int64_t plane, const Tile& tile,
                                                                 const GradientSums* sums, const double* mean,
                                                                 const double* rstd, int64_t pixels) {
  GradientLines<T> lines;
  for (int64_t c = 0; c < tile.channels; ++c) {
    const int64_t p = plane + tile.first + c;
    const GradientLine<T> line = gradient_line_of<T>(sums[p], mean[p], rstd[p], pixels);
    lines.by_deviation[c] = line.by_deviation, lines.constant[c] = line.constant;
  }
  style::spread(lines.by_deviation, tile), style::spread(lines.constant, tile);
  return lines;
}

// map, grad, out: pixel 0 of a chunk.
template <int kBytes, class T, class S>
[[gnu::always_inline]] inline void differentiate(RegisterBytes<kBytes>, const S* map, const S* grad, int64_t pixels,
                                                 int64_t channels, const Tile& tile, const Lines<T>& lines,
                                                 const GradientLines<T>& gradient, T slope, const Stream& stream,
                                                 S* out) {
  map += tile.first, grad += tile.first, out += tile.first;
  for_each_row(pixels, channels, tile, [&](int64_t first, int64_t values, auto lane) __attribute__((always_inline)) {
    const S* __restrict x = map + first, * __restrict g = grad + first;
    S* __restrict y = out + first;
    const auto at = [&](auto registers, int64_t e) __attribute__((always_inline)) {
      const auto line = lines.at(registers, lane(e));
      const auto to = gradient.at(registers, lane(e));
      const auto value = registers.load_part(x + e), z = line_at(value, line.mean, line.scale, line.shift);
      const auto flowing = activated(z, registers.load_part(g + e), slope);
      return gradient_at(flowing, value - line.mean, line.scale, to.by_deviation, to.constant);
    };
    style::write_row<T, kBytes>(values, at, stream, y);
  });
}

// sums [N, C]
template <class S, class T>
void backward(const Tensor& grad, const Tensor& input, const Affine<T>& affine, const double* mean, const double* rstd,
              T slope, Tensor& output, GradientSums* sums) {
  const bool channels_last = is_channels_last(input);
  const Tensor plain = style::grouped(input, channels_last), plain_grad = style::grouped(grad, channels_last);
  const Groups groups = style::groups_of(plain, channels_last, style::pixels_of_chunk);
  const GroupedMap<const S> in = style::readable_map<S>(plain, channels_last);
  const GroupedMap<const S> grads = style::readable_map<S>(plain_grad, channels_last);
  const GroupedMap<S> out = style::writable_map<S>(output, channels_last);
  const int64_t channels = groups.channels;
  ChunkSums partial(groups);
  style::in_passes<S>(
      groups, 3,
      [&](int64_t g, int64_t chunk) {
        const int64_t first = groups.first_pixel(chunk) * channels;
        double *plain_sums = partial.first(g, chunk), *products = partial.second(g, chunk);
        vectorized([&](auto bytes) __attribute__((always_inline)) {
          style::for_each_tile<T>(bytes, channels, [&](const Tile& tile) __attribute__((always_inline)) {
            const Lines<T> lines = lines_of(affine, g * channels, tile, mean, rstd);
            measure_gradient(bytes, in[g] + first, grads[g] + first, groups.pixels_of(chunk), channels, tile, lines,
                             slope, plain_sums, products);
          });
        });
      },
      [&](int64_t g) {
        for (int64_t c = 0, p = g * channels; c < channels; ++c, ++p) {
          double sum = 0, product = 0;
          for (int64_t chunk = 0; chunk < groups.chunks; ++chunk) {
            sum += partial.first(g, chunk)[c], product += partial.second(g, chunk)[c];
          }
          sums[p] = gradient_sums<T>(sum, product, mean[p], rstd[p]);
        }
      },
      [&](int64_t g, int64_t chunk, const Stream& stream) {
        const int64_t first = groups.first_pixel(chunk) * channels;
        vectorized([&](auto bytes) __attribute__((always_inline)) {
          style::for_each_tile<T>(bytes, channels, [&](const Tile& tile) __attribute__((always_inline)) {
            const Lines<T> lines = lines_of(affine, g * channels, tile, mean, rstd);
            const GradientLines<T> gradient = gradient_lines_of<T>(g * channels, tile, sums, mean, rstd, groups.pixels);
            differentiate(bytes, in[g] + first, grads[g] + first, groups.pixels_of(chunk), channels, tile, lines,
                          gradient, slope, stream, out[g] + first);
          });
        });
      });
}

// Over images in order.
template <class T>
void add_images(const Affine<T>& affine, int64_t images, const GradientSums* sums, const Tensor& to_weight,
                const Tensor& to_bias) {
  double* weight = affine.weight ? to_weight.mutable_data_ptr<double>() : nullptr;
  double* bias = affine.bias ? to_bias.mutable_data_ptr<double>() : nullptr;
  for (int64_t n = 0; n < images; ++n) {
    const int64_t row = affine.row(n) * affine.channels;
    for (int64_t c = 0; c < affine.channels; ++c) {
      const GradientSums& sum = sums[n * affine.channels + c];
      if (weight) weight[row + c] += sum.product;
      if (bias) bias[row + c] += sum.grad;
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_backward(const Tensor& grad, const Tensor& input,
                                                          const Optional& weight, const Optional& bias,
                                                          const Optional& style, const Tensor& mean, const Tensor& rstd,
                                                          double, double slope) {
  constexpr const char* kOp = "instance_norm_backward";
  const AffineTensors affine = checked(kOp, input, weight, bias, style);
  check_styles(kOp, input, affine);
  check_backward(kOp, grad, input, mean, rstd);
  Tensor to_input =
      empty_map(input, input.size(0), input.size(1), input.size(2), input.size(3), is_channels_last(input));
  Tensor to_weight = affine_sums(input, weight), to_bias = affine_sums(input, bias);
  if (to_input.numel() > 0) {
    const Tensor means = contiguous_as(mean, ScalarType::Double), rstds = contiguous_as(rstd, ScalarType::Double);
    dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      const Affine<T> view = affine.view<T>();
      Buffer<GradientSums> sums(size_t(input.size(0) * input.size(1)));
      backward<S, T>(grad, input, view, means.const_data_ptr<double>(), rstds.const_data_ptr<double>(), T(slope),
                     to_input, sums.data());
      add_images(view, input.size(0), sums.data(), to_weight, to_bias);
    });
  }
  return {to_input, as_stored(to_weight, input, weight), as_stored(to_bias, input, bias)};
}

}  // namespace
}  // namespace fastvision::instance_norm

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("instance_norm_backward", TORCH_BOX(&fastvision::instance_norm::instance_norm_backward));
}
