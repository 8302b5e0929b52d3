// instance_norm on the CPU. A plane is read once from memory for its moments, block by block, and once more, from cache
// if it fits there, when the output is written.
#include <torch/csrc/stable/library.h>

#include "style/instance_norm_cpu.h"

namespace fastvision::instance_norm {
namespace {

// map: pixel 0 of a chunk of `pixels`. mean, squares [channels]: the moments of each channel.
template <class T, int kBytes, class S>
[[gnu::always_inline]] inline void measure(RegisterBytes<kBytes> bytes, const S* map, int64_t pixels, int64_t channels,
                                           const Tile& tile, double* __restrict mean, double* __restrict squares) {
  map += tile.first, mean += tile.first, squares += tile.first;
  std::fill_n(mean, tile.channels, 0.0), std::fill_n(squares, tile.channels, 0.0);
  for (int64_t p = 0; p < pixels; p += tile.block) {
    const int64_t count = std::min(tile.block, pixels - p);
    const S* block = map + p * channels;
    T about[1][kLanes], sums[2][kLanes];
    style::sum_block<1>(
        bytes, count, channels, tile, about, [](auto, int64_t) { return 0; },
        [&](auto registers, int, int64_t at, auto* totals)
            __attribute__((always_inline)) { totals[0] += registers.load_part(block + at); });
    style::fold(about[0], tile);
    const T share = T(1) / T(count);
    for (int64_t c = 0; c < tile.channels; ++c) about[0][c] *= share;
    style::spread(about[0], tile);
    style::sum_block<2>(
        bytes, count, channels, tile, sums,
        [&](auto registers, int64_t lane)
            __attribute__((always_inline)) { return registers.load_part(about[0] + lane); },
        [&](auto registers, const auto& near, int64_t at, auto* totals) __attribute__((always_inline)) {
          const auto deviation = registers.load_part(block + at) - near;
          totals[0] += deviation, totals[1] += deviation * deviation;
        });
    style::fold(sums[0], tile), style::fold(sums[1], tile);
    for (int64_t c = 0; c < tile.channels; ++c) {
      const Moments moments = merged({mean[c], squares[c]}, double(p),
                                     moments_about(about[0][c], sums[0][c], sums[1][c], double(count)), double(count));
      mean[c] = moments.mean, squares[c] = moments.squares;
    }
  }
}

// map, out: pixel 0 of a chunk.
template <class T, int kBytes, class S>
[[gnu::always_inline]] inline void normalise(RegisterBytes<kBytes>, const S* map, int64_t pixels, int64_t channels,
                                             const Tile& tile, const Lines<T>& lines, T slope, const Stream& stream,
                                             S* out) {
  map += tile.first, out += tile.first;
  for_each_row(pixels, channels, tile, [&](int64_t first, int64_t values, auto lane) __attribute__((always_inline)) {
    const S* __restrict x = map + first;
    S* __restrict y = out + first;
    const auto at = [&](auto registers, int64_t e) __attribute__((always_inline)) {
      const auto line = lines.at(registers, lane(e));
      const auto z = line_at(registers.load_part(x + e), line.mean, line.scale, line.shift);
      return activated(z, z, slope);
    };
    style::write_row<T, kBytes>(values, at, stream, y);
  });
}

template <class S, class T>
void forward(const Tensor& input, const Affine<T>& affine, double eps, T slope, Tensor& output, double* mean,
             double* rstd) {
  const bool channels_last = is_channels_last(input);
  const Tensor plain = style::grouped(input, channels_last);
  const Groups groups = style::groups_of(plain, channels_last, style::pixels_of_chunk);
  const GroupedMap<const S> in = style::readable_map<S>(plain, channels_last);
  const GroupedMap<S> out = style::writable_map<S>(output, channels_last);
  const int64_t channels = groups.channels;
  ChunkSums partial(groups);
  style::in_passes<S>(
      groups, 2,
      [&](int64_t g, int64_t chunk) {
        const S* map = in[g] + groups.first_pixel(chunk) * channels;
        double *means = partial.first(g, chunk), *squares = partial.second(g, chunk);
        vectorized([&](auto bytes) __attribute__((always_inline)) {
          style::for_each_tile<T>(bytes, channels, [&](const Tile& tile) __attribute__((always_inline)) {
            measure<T>(bytes, map, groups.pixels_of(chunk), channels, tile, means, squares);
          });
        });
      },
      [&](int64_t g) {
        for (int64_t c = 0; c < channels; ++c) {
          Moments moments{0, 0};
          for (int64_t chunk = 0; chunk < groups.chunks; ++chunk) {
            moments =
                merged(moments, double(groups.first_pixel(chunk)),
                       {partial.first(g, chunk)[c], partial.second(g, chunk)[c]}, double(groups.pixels_of(chunk)));
          }
          mean[g * channels + c] = moments.mean;
          rstd[g * channels + c] = rstd_of(moments, groups.pixels, eps);
        }
      },
      [&](int64_t g, int64_t chunk, const Stream& stream) {
        const int64_t first = groups.first_pixel(chunk) * channels;
        vectorized([&](auto bytes) __attribute__((always_inline)) {
          style::for_each_tile<T>(bytes, channels, [&](const Tile& tile) __attribute__((always_inline)) {
            const Lines<T> lines = lines_of(affine, g * channels, tile, mean, rstd);
            normalise(bytes, in[g] + first, groups.pixels_of(chunk), channels, tile, lines, slope, stream,
                      out[g] + first);
          });
        });
      });
}

std::tuple<Tensor, Tensor, Tensor> instance_norm(const Tensor& input, const Optional& weight, const Optional& bias,
                                                 const Optional& style, double eps, double slope) {
  constexpr const char* kOp = "instance_norm";
  const AffineTensors affine = checked(kOp, input, weight, bias, style);
  check_styles(kOp, input, affine);
  auto [output, mean, rstd] = empty_outputs(input);
  if (output.numel() == 0) {
    clear_tensor(mean), clear_tensor(rstd);
    return {output, mean, rstd};
  }
  dispatch_floating(kOp, input.scalar_type(), [&, &output = output, &mean = mean, &rstd = rstd](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    forward<S, T>(input, affine.view<T>(), eps, T(slope), output, mean.template mutable_data_ptr<double>(),
                  rstd.template mutable_data_ptr<double>());
  });
  return {output, mean, rstd};
}

}  // namespace
}  // namespace fastvision::instance_norm

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("instance_norm", TORCH_BOX(&fastvision::instance_norm::instance_norm));
}
