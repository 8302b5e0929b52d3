// Gram matrices on the CPU: the lower tiles only, summed over fixed chunks of pixels in a fixed order.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/dispatch.h"
#include "common/gemm.h"
#include "common/host_device.h"
#include "common/parallel.h"
#include "common/transpose.h"
#include "style/gram_matrix.h"

namespace fastvision::gram_matrix {

// Channels and pixels [first, first + count) of one image as panels [channels / width][count][width], zeros beyond the
// last channel: what a tile reads of `width` channels lies side by side.
template <class T, class S>
[[gnu::always_inline]] inline void pack_channels(const Params& p, const S* image, int64_t first, int64_t count,
                                                 int64_t width, T* panels) {
  for (int64_t c = 0; c < p.channels; c += width, panels += count * width) {
    const int64_t some = std::min(width, p.channels - c);
    if (some < width) std::fill_n(panels, count * width, T(0));
    if (p.channels_last) {
      const S* source = image + first * p.channels + c;
      for (int64_t i = 0; i < count; ++i, source += p.channels) {
        for (int64_t l = 0; l < some; ++l) panels[i * width + l] = static_cast<T>(source[l]);
      }
    } else {
      transpose(image + c * p.pixels + first, p.pixels, some, count, panels, width);
    }
  }
}

// out[b] [channels, channels] = scale * features[b] features[b]^T
template <class T, class S>
void multiply_transposed(const Params& p, const S* features, T scale, T* out) {
  const gemm::Tile tile = gemm::tile<T>();
  constexpr int64_t kBlock = 256;  // pixels whose panels stay in the cache
  const int64_t width = tile.columns, padded = ceil_div(p.channels, width) * width;
  // a size that does not depend on the number of threads: few channels make light chunks
  const int64_t chunk = std::max<int64_t>(kBlock, (int64_t(1) << 17) / p.channels / kBlock * kBlock);
  const int64_t chunks = std::max<int64_t>(1, ceil_div(p.pixels, chunk)), matrix = padded * padded;
  Buffer<T> partial(size_t(p.batch * chunks * matrix));
  parallel_workers(p.batch * chunks, [&](const auto& next) {
    Buffer<T> panels(size_t(padded * kBlock));
    for (int64_t item = next(); item < p.batch * chunks; item = next()) {
      const S* image = features + item / chunks * p.channels * p.pixels;
      T* sums = partial.data() + item * matrix;
      const int64_t begin = item % chunks * chunk, end = std::min(p.pixels, begin + chunk);
      if (begin >= end) std::fill_n(sums, matrix, T(0));
      for (int64_t first = begin; first < end; first += kBlock) {
        const int64_t count = std::min(kBlock, end - first);
        vectorized([&]()
                       __attribute__((always_inline)) { pack_channels(p, image, first, count, width, panels.data()); });
        for (int64_t j = 0; j < p.channels; j += width) {
          // tiles that reach the diagonal or lie below it; rows of a tile are within one panel
          for (int64_t panel = j; panel < p.channels; panel += width) {
            const int64_t last = std::min(panel + width, p.channels);
            for (int64_t i = panel; i < last; i += tile.rows) {
              const T *a = panels.data() + panel * count + (i - panel), *b = panels.data() + j * count;
              gemm::multiply<T>(std::min<int64_t>(tile.rows, last - i),
                                {a, width, b, width, count, sums + i * padded + j, padded, first > begin});
            }
          }
        }
      }
    }
  });
  parallel_for(p.batch * p.channels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / p.channels, i = row % p.channels;
      for (int64_t j = 0; j <= i; ++j) {
        T sum = 0;
        for (int64_t c = 0; c < chunks; ++c) sum += partial[size_t((b * chunks + c) * matrix + i * padded + j)];
        T* gram = out + b * p.channels * p.channels;
        gram[i * p.channels + j] = gram[j * p.channels + i] = scale * sum;
      }
    }
  });
}

// The rows of (grad + grad^T) * scale, as panels [channels / width][channels][width].
template <class T>
void pack_symmetric(const T* grad, int64_t channels, T scale, int64_t width, T* panels) {
  for (int64_t c = 0; c < channels; c += width) {
    for (int64_t k = 0; k < channels; ++k, panels += width) {
      for (int64_t l = 0; l < width; ++l) {
        const int64_t i = c + l;
        panels[l] = i < channels ? (grad[k * channels + i] + grad[i * channels + k]) * scale : T(0);
      }
    }
  }
}

// out[b] = scale * (grad[b] + grad[b]^T) features[b], in the order of the features
template <class T, class S>
void multiply_symmetric(const Params& p, const T* grad, const S* features, T scale, S* out) {
  const gemm::Tile tile = gemm::tile<T>();
  const int64_t channels = p.channels, pixels_wide = p.channels_last ? tile.rows : tile.columns;
  const int64_t channels_wide = p.channels_last ? tile.columns : tile.rows;
  const int64_t block = ceil_div(int64_t(128), pixels_wide) * pixels_wide, blocks = ceil_div(p.pixels, block);
  const int64_t panels = ceil_div(channels, channels_wide), weights = panels * channels_wide * channels;
  Buffer<T> symmetric(size_t(p.batch * weights));
  for (int64_t b = 0; b < p.batch; ++b) {
    pack_symmetric(grad + b * channels * channels, channels, scale, channels_wide, symmetric.data() + b * weights);
  }
  parallel_for(p.batch * blocks, 4, [&](int64_t begin, int64_t end) {
    Buffer<T> packed(size_t(block * channels)), sums(size_t(tile.rows * tile.columns));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t b = item / blocks, first = item % blocks * block, count = std::min(block, p.pixels - first);
      const S* image = features + b * channels * p.pixels;
      S* target = out + b * channels * p.pixels;
      // panels [count / pixels_wide][channels][pixels_wide]
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t q = 0; q < count; q += pixels_wide) {
          const int64_t some = std::min(pixels_wide, count - q);
          T* panel = packed.data() + q * channels;
          if (some < pixels_wide) std::fill_n(panel, channels * pixels_wide, T(0));
          if (p.channels_last) {
            transpose(image + (first + q) * channels, channels, some, channels, panel, pixels_wide);
          } else {
            for (int64_t c = 0; c < channels; ++c) {
              const S* source = image + c * p.pixels + first + q;
              for (int64_t l = 0; l < some; ++l) panel[c * pixels_wide + l] = static_cast<T>(source[l]);
            }
          }
        }
      });
      for (int64_t c = 0; c < channels; c += channels_wide) {
        const T* weight = symmetric.data() + b * weights + c * channels;
        for (int64_t q = 0; q < count; q += pixels_wide) {
          const T* panel = packed.data() + q * channels;
          const int64_t some_c = std::min(channels_wide, channels - c), some_q = std::min(pixels_wide, count - q);
          const bool last = p.channels_last;
          const int64_t rows = last ? some_q : some_c, columns = last ? some_c : some_q;
          S* place = last ? target + (first + q) * channels + c : target + c * p.pixels + first + q;
          const int64_t step = last ? channels : p.pixels;
          gemm::Operands<T> operands{last ? panel : weight, tile.rows, last ? weight : panel,
                                     tile.columns,          channels,  sums.data(),
                                     tile.columns,          false};
          if constexpr (std::is_same_v<S, T>) {
            if (columns == tile.columns) {
              operands.out = place, operands.out_step = step;
              gemm::multiply<T>(rows, operands);
              continue;
            }
          }
          gemm::multiply<T>(rows, operands);
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t l = 0; l < columns; ++l) {
              place[r * step + l] = static_cast<S>(sums[size_t(r * tile.columns + l)]);
            }
          }
        }
      }
    }
  });
}

}  // namespace fastvision::gram_matrix
