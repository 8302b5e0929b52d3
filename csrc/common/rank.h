// Stable descending order of scores: equal scores by index, NaN last.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/memory.h"
#include "common/score_key.h"

namespace fastvision {

// Below so many the histograms cost more than comparisons.
constexpr int64_t kRadixFrom = 400;

// Sorts by 32-bit keys, 11 bits a pass, least significant digit first (stable). No branch depends on the data, which
// makes it three times as fast as comparisons, whose outcomes no processor can foresee. scratch: as many elements.
template <class E, class KeyOf>
void radix_sort(E* elements, E* scratch, int64_t count, const KeyOf& key_of) {
  constexpr int kBits = 11, kBuckets = 1 << kBits, kPasses = 3;
  if (count == 0) return;
  std::array<std::array<uint32_t, kBuckets>, kPasses> counts{};
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t key = key_of(elements[i]);
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass][(key >> (pass * kBits)) & (kBuckets - 1)];
  }
  E *from = elements, *to = scratch;
  for (int pass = 0; pass < kPasses; ++pass) {
    auto& starts = counts[pass];
    const auto digit = [&](const E& e) { return (key_of(e) >> (pass * kBits)) & (kBuckets - 1); };
    if (starts[digit(from[0])] == count) continue;  // one digit only
    uint32_t start = 0;
    for (uint32_t& bucket : starts) start += std::exchange(bucket, start);
    for (int64_t i = 0; i < count; ++i) to[starts[digit(from[i])]++] = from[i];
    std::swap(from, to);
  }
  if (from != elements) std::copy(from, from + count, elements);
}

// Indices of scores[0..n) in rank order; those that fail `accept(score)` are left out.
template <class T, class Accept>
std::vector<int64_t> rank_descending(const T* scores, int64_t n, const Accept& accept) {
  std::vector<int64_t> order;
  if (sizeof(T) == 4 && n < int64_t{UINT32_MAX}) {
    const Buffer<uint64_t> words(n);
    int64_t accepted = 0;
    for (int64_t i = 0; i < n; ++i) {
      words[accepted] = uint64_t{descending_key(scores[i])} << 32 | uint64_t(i);
      accepted += accept(scores[i]);
    }
    if (accepted < kRadixFrom) {
      std::sort(words.data(), words.data() + accepted);
    } else {
      const Buffer<uint64_t> scratch(accepted);
      radix_sort(words.data(), scratch.data(), accepted, [](uint64_t word) { return uint32_t(word >> 32); });
    }
    order.resize(accepted);
    for (int64_t i = 0; i < accepted; ++i) order[i] = int64_t(words[i] & UINT32_MAX);
  } else {
    order.reserve(n);
    for (int64_t i = 0; i < n; ++i) {
      if (accept(scores[i])) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return descending_key(scores[a]) < descending_key(scores[b]); });
  }
  return order;
}

}  // namespace fastvision
