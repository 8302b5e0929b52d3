// max_unpool2d on the CPU, the general path: indices that point anywhere, several of them perhaps to one pixel.
//
// Inputs are visited in the order of rows and columns, so that of several the last stays.
#pragma once

#include <atomic>

#include "common/memory.h"
#include "common/parallel.h"
#include "upsample/max_unpool2d.h"

namespace fastvision::max_unpool2d {

using Places = Map<const int64_t>;

constexpr int64_t kGrain = 1 << 14;  // inputs that are worth a thread

// Negative, as a signed number, if and only if `place` is not in [low, high). Unlike a comparison of 64-bit numbers
// without a sign it is subtraction alone, which every instruction set does side by side. 0 <= low <= high.
[[gnu::always_inline]] inline uint64_t distance_beyond(int64_t place, int64_t low, int64_t high) {
  return (uint64_t(place) - uint64_t(low)) | (uint64_t(high - 1) - uint64_t(place));
}

// For a word that is kept or dropped, which nobody can foresee: `condition ? word : 0` becomes a branch where the
// compiler does not vectorise it, which for words that are not as wide as the condition's operands is often.
template <class W>
[[gnu::always_inline]] inline W all_bits_if(bool condition) {
  return W(-W(condition));
}

// The first index, in the order of [N, C, H, W], that names no pixel.
class FirstWrong {
 public:
  void note(int64_t position) {
    int64_t first = first_.load(std::memory_order_relaxed);
    while (position < first && !first_.compare_exchange_weak(first, position, std::memory_order_relaxed)) {
    }
  }

  void check(const char* op, const Params& p, const Places& places) const {
    const int64_t first = first_.load();
    if (first == kNone) return;
    const int64_t plane = first / (p.height * p.width), pixel = first % (p.height * p.width);
    const int64_t n = plane / p.channels, c = plane % p.channels, i = pixel / p.width, j = pixel % p.width;
    fail<std::out_of_range>(op, "expected indices in [0, ", p.pixels(), "), the pixels of an output plane, got ",
                            places.at(n, c)[i * places.step.h + j * places.step.w], " at [", n, ", ", c, ", ", i, ", ",
                            j, "]");
  }

 private:
  static constexpr int64_t kNone = INT64_MAX;
  std::atomic<int64_t> first_{kNone};
};

// Channels [c, c + lanes) of image n.
struct Block {
  int64_t n, c, lanes;
};

// visit(position in the plane, lane, place) for each input of a block in order
template <class Visit>
[[gnu::always_inline]] inline void for_each_place(const Params& p, const Places& places, const Block& block,
                                                  const Visit& visit) {
  const int64_t* first = places.at(block.n, block.c);
  for (int64_t i = 0; i < p.height; ++i) {
    for (int64_t j = 0; j < p.width; ++j) {
      for (int64_t l = 0; l < block.lanes; ++l) {
        visit(i, j, l, first[i * places.step.h + j * places.step.w + l * places.step.c]);
      }
    }
  }
}

// The general path, into zeros.
template <class W>
[[gnu::always_inline]] inline void scatter(const Params& p, const Map<const W>& in, const Places& places,
                                           const Map<W>& out, const Block& block, FirstWrong& wrong) {
  const W* values = in.at(block.n, block.c);
  W* target = out.at(block.n, block.c);
  for_each_place(p, places, block, [&](int64_t i, int64_t j, int64_t l, int64_t place) __attribute__((always_inline)) {
    if (p.is_pixel(place)) {
      target[place * out.step.w + l * out.step.c] = values[i * in.step.h + j * in.step.w + l * in.step.c];
    } else {
      wrong.note(((block.n * p.channels + block.c + l) * p.height + i) * p.width + j);
    }
  });
}

// Its gradient. last [pixels, lanes] needs no clearing: only what was written is read.
template <class W>
[[gnu::always_inline]] inline void gather(const Params& p, const Map<const W>& grad, const Places& places,
                                          const Map<W>& out, const Block& block, Buffer<int32_t>& last,
                                          FirstWrong& wrong) {
  const W* values = grad.at(block.n, block.c);
  W* target = out.at(block.n, block.c);
  last.reserve(size_t(p.pixels() * block.lanes));
  for_each_place(p, places, block, [&](int64_t i, int64_t j, int64_t l, int64_t place) __attribute__((always_inline)) {
    if (p.is_pixel(place)) {
      last[size_t(place * block.lanes + l)] = int32_t(i * p.width + j);
    } else {
      wrong.note(((block.n * p.channels + block.c + l) * p.height + i) * p.width + j);
    }
  });
  for_each_place(p, places, block, [&](int64_t i, int64_t j, int64_t l, int64_t place) __attribute__((always_inline)) {
    const bool wins = p.is_pixel(place) && last[size_t(place * block.lanes + l)] == int32_t(i * p.width + j);
    target[i * out.step.h + j * out.step.w + l * out.step.c] =
        wins ? values[place * grad.step.w + l * grad.step.c] : W(0);
  });
}

}  // namespace fastvision::max_unpool2d
