// Upsampling by a whole factor: every pixel becomes factor x factor of them, copies of itself or it among zeros.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/dispatch.h"
#include "common/layout.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "common/stream.h"

namespace fastvision::whole_factor {

// [batch, channels, height, width] -> [batch, channels, height * factor, width * factor]
struct Params {
  int64_t batch, channels, height, width, factor;
};

inline void check_map(const char* op, const char* what, const Tensor& map, int64_t factor) {
  FV_CHECK(map.dim() == 4, op, "expected ", what, " of shape [N, C, H, W], got ", shape_of(map));
  check_floating(op, what, map);
  FV_CHECK(factor >= 1, op, "expected a factor of at least 1, got ", factor);
  FV_CHECK(factor <= INT32_MAX, op, "expected a factor of at most ", INT32_MAX, ", got ", factor);
}

inline Params forward_params(const char* op, const Tensor& input, int64_t factor) {
  check_map(op, "an input", input, factor);
  return {input.size(0), input.size(1), input.size(2), input.size(3), factor};
}

inline Params backward_params(const char* op, const Tensor& grad, int64_t factor) {
  check_map(op, "grad", grad, factor);
  FV_CHECK(grad.size(2) % factor == 0 && grad.size(3) % factor == 0, op, "expected grad with sides divisible by ",
           factor, ", got ", shape_of(grad));
  return {grad.size(0), grad.size(1), grad.size(2) / factor, grad.size(3) / factor, factor};
}

// The rows of a map, one after the other: of planes, or of pixels with all their channels.
struct Rows {
  int64_t count, pixels, lanes;  // input rows, pixels of one, and neighbours that stay together

  Rows(const Params& p, bool channels_last)
      : count(p.batch * p.height * (channels_last ? 1 : p.channels)),
        pixels(p.width),
        lanes(channels_last ? p.channels : 1) {}

  int64_t length() const { return pixels * lanes; }

  // Input rows that are worth a thread.
  int64_t grain(int64_t factor) const {
    constexpr int64_t kNumbers = 1 << 14;  // of the larger map
    return std::max<int64_t>(1, kNumbers / (length() * factor * factor));
  }
};

// body(row, word) for each row of the smaller map; a word is as wide as an element of `source`.
template <class Body>
void for_each_row(const Rows& rows, int64_t factor, const Tensor& source, const Body& body) {
  dispatch_words(source, [&](auto word) {
    parallel_for(rows.count, rows.grain(factor), [&](int64_t begin, int64_t end) {
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t y = begin; y < end; ++y) body(y, word);
      });
    });
  });
}

// What follows the first of the `factor` rows of the larger map that a row of the smaller one becomes.
enum class Others { kCopies, kZeros };

// The larger map: row(from, to) makes the first of `factor` rows from a row of the smaller map. Of large maps it does
// so in scratch memory, and all go past the caches.
template <Others kOthers, class Row>
void write_rows(const Rows& rows, int64_t factor, const Tensor& source, Tensor& output, const Row& row) {
  constexpr bool kZeros = kOthers == Others::kZeros;
  const int64_t length = rows.length(), out_length = length * factor;
  constexpr int64_t kStays = 256 << 10;  // bytes of a row, in a cache
  const int64_t size = source.element_size(), row_bytes = out_length * size;
  const int64_t bytes = row_bytes <= kStays ? (source.numel() + output.numel()) * size : 0;
  const void* const input = source.const_data_ptr();
  void* const larger = output.mutable_data_ptr();
  dispatch_words(source, [&](auto word) {
    using W = typename decltype(word)::type;
    parallel_for(rows.count, rows.grain(factor), [&](int64_t begin, int64_t end) {
      const Stream stream(bytes, row_bytes);
      const Buffer<W> scratch(size_t(stream ? out_length : 0));
      vectorized([&]<int kBytes>(RegisterBytes<kBytes>) __attribute__((always_inline)) {
        for (int64_t y = begin; y < end; ++y) {
          const W* const from = static_cast<const W*>(input) + y * length;
          W* const to = static_cast<W*>(larger) + y * factor * out_length;
          if (stream) {
            row(from, scratch.data());
            for (int64_t r = 0; r < (kZeros ? 1 : factor); ++r) {
              stream.copy<kBytes>(scratch.data(), out_length, to + r * out_length);
            }
            if (kZeros) stream.clear<kBytes>((factor - 1) * out_length, to + out_length);
            continue;
          }
          row(from, to);
          if (kZeros) {
            std::fill_n(to + out_length, (factor - 1) * out_length, W(0));
          } else if (rows.lanes > 1) {  // runs as long as these are copied as fast from where there are fewer of them
            for (int64_t r = 1; r < factor; ++r) row(from, to + r * out_length);
          } else {
            for (int64_t r = 1; r < factor; ++r) std::memcpy(to + r * out_length, to, size_t(out_length) * sizeof(W));
          }
        }
      });
    });
  });
}

// A map of `factor` times the sides, or of 1 / factor of them, in the layout of `source`.
inline Tensor empty_output(const Params& p, const Tensor& source, bool larger) {
  const int64_t factor = larger ? p.factor : 1;
  return empty_map(source, p.batch, p.channels, p.height * factor, p.width * factor, is_channels_last(source));
}

}  // namespace fastvision::whole_factor
