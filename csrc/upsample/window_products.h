// Dense transposed convolution of channels_last maps with kernel = stride, on the CPU: pixels by outputs, the order of
// the result, so that nothing is turned and every store is a run of outputs of one pixel.
#pragma once

#include <algorithm>
#include <type_traits>

#include "common/memory.h"
#include "common/simd.h"
#include "common/windows.h"
#include "upsample/conv_transpose2d.h"

namespace fastvision::conv_transpose2d {

constexpr int64_t kLeastPixels = 48;   // of a map; fewer would leave tiles empty
constexpr int64_t kLeastOutputs = 16;  // as would these

inline bool are_windows(const Params& p, const Strides& out) {
  const auto fits = [](const Axis& a) {
    return a.kernel == a.stride && a.dilation == 1 && a.padding == 0 && a.out == a.in * a.stride;
  };
  return p.groups == 1 && p.outputs >= kLeastOutputs && out.c == 1 && fits(p.y) && fits(p.x) &&
         p.y.in * p.x.in >= kLeastPixels;
}

template <class T, class S>
void window_products(const Params& p, const S* input, const Strides& in, const S* weight, const S* bias,
                     Activation<T> activation, S* output, const Strides& out) {
  const windows::Panels<T> panels(p.channels, p.outputs, p.y.kernel * p.x.kernel, weight);
  const gemm::Tile tile = gemm::tile<T>();
  const windows::Pieces pieces(p.batch, p.y.in * p.x.in, tile.rows);
  Buffer<T> biases(size_t(panels.blocks() * tile.columns));
  std::fill_n(biases.data(), panels.blocks() * tile.columns, T(0));
  for (int64_t o = 0; bias && o < p.outputs; ++o) biases[size_t(o)] = static_cast<T>(bias[o]);
  parallel_for(p.batch * pieces.each, 1, [&](int64_t first, int64_t last) {
    Buffer<T> pixels(size_t(pieces.length * p.channels)), sums(size_t(tile.rows * tile.columns));
    Buffer<S*> targets(size_t(pieces.length));
    for (int64_t i = first; i < last; ++i) {
      const windows::Piece piece = pieces[i];
      S* map = output + piece.map * out.n;
      for (int64_t k = piece.begin; k < piece.end; ++k) {
        targets[size_t(k - piece.begin)] = map + k / p.x.in * p.y.stride * out.h + k % p.x.in * p.x.stride * out.w;
      }
      vectorized([&]() __attribute__((always_inline)) {
        windows::pack_pixels(p.channels, p.x.in, tile.rows, input, in, piece, pixels.data());
      });
      for (int64_t place = 0; place < p.y.kernel * p.x.kernel; ++place) {
        const int64_t corner = place / p.x.kernel * out.h + place % p.x.kernel * out.w;
        for (int64_t block = 0; block < panels.blocks(); ++block) {
          const int64_t channel = block * tile.columns, some = std::min<int64_t>(tile.columns, p.outputs - channel);
          const T *panel = panels.panel(place, block), *tile_bias = biases.data() + channel;
          for (int64_t k = piece.begin; k < piece.end; k += tile.rows) {
            const int64_t rows = std::min<int64_t>(tile.rows, piece.end - k);
            gemm::Operands<T> operands{pixels.data() + (k - piece.begin) * p.channels,
                                       tile.rows,
                                       panel,
                                       tile.columns,
                                       p.channels,
                                       sums.data(),
                                       tile.columns,
                                       false,
                                       tile_bias};
            S* const* const pixel = targets.data() + (k - piece.begin);
            if constexpr (std::is_same_v<S, T>) {  // straight to where it belongs, if that is evenly spaced
              if (activation.slope == 1 && some == tile.columns && k % p.x.in + rows <= p.x.in) {
                operands.out = pixel[0] + corner + channel, operands.out_step = p.x.stride * out.w;
                gemm::multiply<T>(rows, operands);
                continue;
              }
            }
            gemm::multiply<T>(rows, operands);
            vectorized([&]() __attribute__((always_inline)) {
              const Activation<T> activate = activation;
              for (int64_t r = 0; r < rows; ++r) {
                const T* __restrict from = sums.data() + r * tile.columns;
                S* __restrict target = pixel[r] + corner + channel;
                for (int64_t u = 0; u < some; ++u) target[u] = static_cast<S>(activate(from[u]));
              }
            });
          }
        }
      }
    }
  });
}

}  // namespace fastvision::conv_transpose2d
