// Gram matrices on the CPU: the lower tiles only, summed over fixed chunks of pixels in a fixed order.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "common/copy.h"
#include "common/dispatch.h"
#include "common/gemm.h"
#include "common/host_device.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/transpose.h"
#include "style/gram_matrix.h"

namespace fastvision::gram_matrix {

using torch::headeronly::BFloat16;

// so that a thread that is held up leaves the rest to the others
constexpr int64_t kItemsOfThread = 4, kGradientItemsOfThread = 8;

// Channels are taken `width` at a time, a tile's columns: a panel. Of the matrix, the products of panel i with the
// panels j <= i are summed, each [width, width], one after the other.
struct Panels {
  int64_t channels, width;

  int64_t count() const { return ceil_div(channels, width); }
  int64_t pairs() const { return count() * (count() + 1) / 2; }
  int64_t of(int64_t i) const { return std::min(width, channels - i * width); }  // channels of panel i
  int64_t product(int64_t i, int64_t j) const { return (i * (i + 1) / 2 + j) * width * width; }
};

// Channels of `panels` and pixels [first, first + count) of one image as [panels][count][width], zeros beyond the last
// channel: what a tile reads lies side by side.
template <class T, class S>
[[gnu::always_inline]] inline void pack_channels(const Params& p, const S* image, int64_t first, int64_t count,
                                                 const Panels& panels, T* packed) {
  const int64_t width = panels.width, step = count * width;
  if (panels.channels % width > 0) std::fill_n(packed + (panels.count() - 1) * step, step, T{});
  if (p.channels_last) {
    const S* pixel = image + first * p.channels;
    for (int64_t k = 0; k < count; ++k, pixel += p.channels) {
      T* target = packed + k * width;
      for (int64_t i = 0; i < panels.count(); ++i, target += step) copy(pixel + i * width, panels.of(i), target);
    }
  } else {
    for (int64_t i = 0; i < panels.count(); ++i) {
      transpose(image + i * width * p.pixels + first, p.pixels, panels.of(i), count, packed + i * step, width);
    }
  }
}

typedef uint16_t Bits16 __attribute__((may_alias));

// pairs[i] = low[i] and high[i], or 0 where there is no high; in whole vectors, see `copy`
[[gnu::always_inline]] inline void interleave(const Bits16* low, const Bits16* high, int64_t count,
                                              gemm::BFloat16Pair* __restrict pairs) {
  constexpr int64_t kWhole = 16;
  int64_t i = 0;
  for (; i + kWhole <= count && high; i += kWhole) {
#pragma GCC unroll 16
    for (int64_t l = 0; l < kWhole; ++l) pairs[i + l].bits = low[i + l] | uint32_t(high[i + l]) << 16;
  }
  for (; i < count; ++i) pairs[i].bits = low[i] | (high ? uint32_t(high[i]) << 16 : 0);
}

// The same of pairs of pixels, [panels][ceil(count / 2)][width], a last pixel with zero. Where channels come first, the
// pixels of a plane are even in number.
[[gnu::always_inline]] inline void pack_channels(const Params& p, const BFloat16* image, int64_t first, int64_t count,
                                                 const Panels& panels, gemm::BFloat16Pair* packed) {
  const int64_t width = panels.width, pairs = ceil_div(count, int64_t(2)), step = pairs * width;
  if (!p.channels_last) {
    const auto planes = reinterpret_cast<const gemm::BFloat16Pair*>(image + first);
    const Params halved{p.batch, p.channels, p.pixels / 2, false};
    return pack_channels<gemm::BFloat16Pair>(halved, planes, 0, pairs, panels, packed);
  }
  if (panels.channels % width > 0) std::fill_n(packed + (panels.count() - 1) * step, step, gemm::BFloat16Pair{0});
  for (int64_t k = 0; k < pairs; ++k, packed += width) {
    const auto pixel = reinterpret_cast<const Bits16*>(image + (first + 2 * k) * p.channels);
    const bool both = 2 * k + 1 < count;
    for (int64_t i = 0; i < panels.count(); ++i) {
      const Bits16* low = pixel + i * width;
      interleave(low, both ? low + p.channels : nullptr, panels.of(i), packed + i * step);
    }
  }
}

// out[b] [channels, channels] = scale * the sums over chunks of partial [batch, chunks, pairs, width, width]
template <class T>
void add_chunks(const Params& p, const Panels& panels, int64_t chunks, const T* partial, T scale, T* out) {
  const int64_t area = panels.width * panels.width, step = panels.pairs() * area;
  parallel_workers(p.batch * panels.count(), [&](const auto& next) {
    for (int64_t item = next(); item < p.batch * panels.count(); item = next()) {
      const int64_t b = item / panels.count(), i = item % panels.count(), rows = panels.of(i);
      const int64_t known = rows * panels.width;  // of a product
      T* gram = out + b * p.channels * p.channels;
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t j = 0; j <= i; ++j) {
          const int64_t columns = panels.of(j);
          const T* product = partial + b * chunks * step + panels.product(i, j);
          T sums[gemm::kMostColumns<T> * gemm::kMostColumns<T>];
          std::copy_n(product, known, sums);
          for (int64_t c = 1; c < chunks; ++c) {
            const T* __restrict other = product + c * step;
            for (int64_t l = 0; l < known; ++l) sums[l] += other[l];
          }
          for (int64_t l = 0; l < known; ++l) sums[l] *= scale;
          T* rows_of_j = gram + i * panels.width * p.channels + j * panels.width;
          for (int64_t r = 0; r < rows; ++r) copy(sums + r * panels.width, columns, rows_of_j + r * p.channels);
          if (j < i) {
            T* columns_of_i = gram + j * panels.width * p.channels + i * panels.width;
            transpose(sums, panels.width, rows, columns, columns_of_i, p.channels);
          }
        }
      });
    }
  });
}

// products (+)= those of panels [begin, end) with the panels before them and themselves, over packed pixels, or pairs.
template <class T, class A>
void add_products(const Panels& panels, int64_t begin, int64_t end, const A* packed, int64_t pixels, bool accumulate,
                  T* products) {
  const gemm::Tile tile = gemm::tile<T>();
  const int64_t width = panels.width;
  for (int64_t j = 0; j < end; ++j) {
    const A* b = packed + j * pixels * width;
    for (int64_t i = std::max(begin, j); i < end; ++i) {
      const A* a = packed + i * pixels * width;
      T* product = products + panels.product(i, j);
      int64_t rows = 0;
      for (int64_t r = 0, tiles = ceil_div(panels.of(i), tile.rows); tiles > 0; r += rows, --tiles) {
        rows = ceil_div(panels.of(i) - r, tiles);  // 16 are 6, 5 and 5: small tiles wait for their own sums
        gemm::multiply(rows,
                       gemm::Operands<T, A>{a + r, width, b, width, pixels, product + r * width, width, accumulate});
      }
    }
  }
}

// out[b] [channels, channels] = scale * features[b] features[b]^T; A: what is multiplied, T or pairs of bfloat16
template <class T, class A, class S>
void multiply_transposed(const Params& p, const S* features, T scale, T* out) {
  const Panels panels{p.channels, gemm::tile<T>().columns};
  constexpr int64_t kTogether = std::is_same_v<A, gemm::BFloat16Pair> ? 2 : 1;  // pixels
  constexpr int64_t kValues = 1 << 16;                                          // whose panels stay in the cache
  const int64_t block = std::clamp<int64_t>(kValues / p.channels / 64 * 64, 64, 1024);
  // a size that does not depend on the number of threads: few channels make light chunks
  const int64_t chunk = std::max<int64_t>(512, (int64_t(1) << 17) / p.channels / 256 * 256);
  const int64_t chunks = std::max<int64_t>(1, ceil_div(p.pixels, chunk));
  // Where chunks are few, their products are shared out too: equal parts of the triangle, which end at panel
  // count * sqrt(part / parts), and are worth packing the panels before them again.
  constexpr int64_t kLeastPanels = 8;
  const int64_t parts = std::clamp(ceil_div(kItemsOfThread * thread_count(), p.batch * chunks), int64_t(1),
                                   std::max(panels.count() / kLeastPanels, int64_t(1)));
  const auto end_of = [&](int64_t part) {
    return int64_t(std::lround(double(panels.count()) * std::sqrt(double(part) / double(parts))));
  };
  const int64_t area = panels.pairs() * panels.width * panels.width;
  Buffer<T> partial(size_t(p.batch * chunks * area));
  parallel_workers(p.batch * chunks * parts, [&](const auto& next) {
    Buffer<A> packed(size_t(panels.count() * panels.width * block / kTogether));
    for (int64_t item = next(); item < p.batch * chunks * parts; item = next()) {
      const int64_t part = item % parts, chunk_of_all = item / parts;
      const S* image = features + chunk_of_all / chunks * p.channels * p.pixels;
      const int64_t begin = chunk_of_all % chunks * chunk, end = std::min(p.pixels, begin + chunk);
      const int64_t first_panel = end_of(part), last_panel = end_of(part + 1);
      const Panels needed{std::min(p.channels, last_panel * panels.width), panels.width};
      T* products = partial.data() + chunk_of_all * area;
      if (begin >= end && part == 0) std::fill_n(products, area, T(0));
      for (int64_t first = begin; first < end; first += block) {
        const int64_t count = std::min(block, end - first);
        vectorized(
            [&]() __attribute__((always_inline)) { pack_channels(p, image, first, count, needed, packed.data()); });
        add_products(panels, first_panel, last_panel, packed.data(), ceil_div(count, kTogether), first > begin,
                     products);
      }
    }
  });
  add_chunks(p, panels, chunks, partial.data(), scale, out);
}

// (grad + grad^T) * scale of each image as panels [batch][channels / width][channels][width], zeros beyond the last.
template <class T, class G>
void pack_symmetric(const Params& p, const G* grads, T scale, int64_t width, T* packed) {
  constexpr int64_t kGrain = 1 << 14;  // numbers that are worth a thread
  const Panels panels{p.channels, width};
  const int64_t step = p.channels * width;
  parallel_for(p.batch * panels.count(), ceil_div(kGrain, step), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t i = item % panels.count(), some = panels.of(i);
      const G* grad = grads + item / panels.count() * p.channels * p.channels;
      T* panel = packed + item * step;
      vectorized([&]() __attribute__((always_inline)) {
        if (some < width) std::fill_n(panel, step, T(0));
        transpose(grad + i * width * p.channels, p.channels, some, p.channels, panel, width);
        for (int64_t k = 0; k < p.channels; ++k) {
          const G* row = grad + k * p.channels + i * width;
          for (int64_t l = 0; l < some; ++l) {
            panel[k * width + l] = (static_cast<T>(row[l]) + panel[k * width + l]) * scale;
          }
        }
      });
    }
  });
}

// Pixels [first, first + count) of one image as panels [count / width][channels][width], zeros beyond the last pixel.
template <class T, class S>
[[gnu::always_inline]] inline void pack_pixels(const Params& p, const S* image, int64_t first, int64_t count,
                                               int64_t width, T* packed) {
  const int64_t rest = count % width, step = p.channels * width;
  if (rest > 0) std::fill_n(packed + count / width * step, step, T(0));
  if (p.channels_last) {
    for (int64_t q = 0; q < count; q += width, packed += step) {
      transpose(image + (first + q) * p.channels, p.channels, std::min(width, count - q), p.channels, packed, width);
    }
  } else {  // whole runs of a channel: as many channels as there are panels would be read a cache line each
    for (int64_t c = 0; c < p.channels; ++c, packed += width) {
      const S* row = image + c * p.pixels + first;
      T* target = packed;
      for (int64_t q = 0; q < count; q += width, target += step) {
        __builtin_prefetch(row + p.pixels + q);
        copy(row + q, std::min(width, count - q), target);
      }
    }
  }
}

// Channels that a tile of the gradient takes.
template <class T>
int64_t channels_of_tile(const Params& p) {
  return p.channels_last ? gemm::tile<T>().columns : gemm::tile<T>().rows;
}

// out[b] = symmetric[b] features[b], in the order of the features; symmetric: as pack_symmetric leaves it, which alone
// depends on the type of the gradient
template <class T, class S>
void multiply_panels(const Params& p, const T* symmetric, const S* features, S* out) {
  const gemm::Tile tile = gemm::tile<T>();
  const int64_t channels = p.channels, pixels_wide = p.channels_last ? tile.rows : tile.columns;
  const int64_t channels_wide = channels_of_tile<T>(p),
                weights = ceil_div(channels, channels_wide) * channels_wide * channels;
  constexpr int64_t kValues = 1 << 16, kLeastPixels = 64;  // whose panels stay in the cache
  const int64_t share = ceil_div(p.batch * p.pixels, kGradientItemsOfThread * thread_count());
  const int64_t block =
      ceil_div(std::max(std::min(kValues / channels, share), kLeastPixels), pixels_wide) * pixels_wide;
  const int64_t blocks = ceil_div(p.pixels, block);
  parallel_workers(p.batch * blocks, [&](const auto& next) {
    Buffer<T> packed(size_t(block * channels)), sums(size_t(tile.rows * tile.columns));
    for (int64_t item = next(); item < p.batch * blocks; item = next()) {
      const int64_t b = item / blocks, first = item % blocks * block, count = std::min(block, p.pixels - first);
      const S* image = features + b * channels * p.pixels;
      S* target = out + b * channels * p.pixels;
      vectorized(
          [&]() __attribute__((always_inline)) { pack_pixels(p, image, first, count, pixels_wide, packed.data()); });
      for (int64_t c = 0; c < channels; c += channels_wide) {
        const T* weight = symmetric + b * weights + c * channels;
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

// out[b] = scale * (grad[b] + grad[b]^T) features[b]
template <class T, class S, class G>
void multiply_symmetric(const Params& p, const G* grad, const S* features, T scale, S* out) {
  const int64_t wide = channels_of_tile<T>(p);
  Buffer<T> symmetric(size_t(p.batch * ceil_div(p.channels, wide) * wide * p.channels));
  pack_symmetric(p, grad, scale, wide, symmetric.data());
  multiply_panels(p, symmetric.data(), features, out);
}

}  // namespace fastvision::gram_matrix
