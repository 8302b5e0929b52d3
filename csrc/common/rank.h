// Stable descending order of scores: equal scores by index, NaN last.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/score_key.h"

namespace fastvision {

// Sorts (key << 32 | index) words by their upper half, 11 bits a pass, least significant digit first (stable).
inline void radix_sort_upper_half(std::vector<uint64_t>& words) {
  constexpr int kBits = 11, kBuckets = 1 << kBits, kPasses = 3;
  std::array<std::array<uint32_t, kBuckets>, kPasses> counts{};
  for (const uint64_t word : words) {
    for (int pass = 0; pass < kPasses; ++pass) {
      ++counts[pass][(word >> (32 + pass * kBits)) & (kBuckets - 1)];
    }
  }
  std::vector<uint64_t> other(words.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    auto& count = counts[pass];
    const int shift = 32 + pass * kBits;
    if (count[(words[0] >> shift) & (kBuckets - 1)] == words.size()) continue;  // one digit only
    uint32_t start = 0;
    for (uint32_t& bucket : count) start += std::exchange(bucket, start);
    for (const uint64_t word : words) other[count[(word >> shift) & (kBuckets - 1)]++] = word;
    words.swap(other);
  }
}

// Indices of scores[0..n) in rank order; those that fail `accept(score)` are left out.
template <class T, class Accept>
std::vector<int64_t> rank_descending(const T* scores, int64_t n, const Accept& accept) {
  constexpr size_t kRadixFrom = 400;  // below it the histograms cost more than the comparisons
  std::vector<int64_t> order;
  if (sizeof(T) == 4 && n < int64_t{UINT32_MAX}) {
    std::vector<uint64_t> words;
    words.resize(n);
    int64_t accepted = 0;
    for (int64_t i = 0; i < n; ++i) {
      words[accepted] = uint64_t{descending_key(scores[i])} << 32 | uint64_t(i);
      accepted += accept(scores[i]);
    }
    words.resize(accepted);
    if (words.size() < kRadixFrom) {
      std::sort(words.begin(), words.end());
    } else {
      radix_sort_upper_half(words);
    }
    order.reserve(words.size());
    for (const uint64_t word : words) order.push_back(int64_t(word & UINT32_MAX));
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
