// Stable descending order of scores: equal scores by index, NaN last.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/memory.h"
#include "common/score_key.h"

namespace fastvision {

// Below so many the histograms cost more than comparisons.
constexpr int64_t kRadixFrom = 400;

constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;

// Stable, by the digits of key_of(element) >> shift, least significant first. No branch depends on the data, which
// makes it three times as fast as comparisons, whose outcomes no processor can foresee. scratch: as many elements.
template <int kPasses, class E, class KeyOf>
void sort_by_digits(E* elements, E* scratch, int64_t count, const KeyOf& key_of, int shift) {
  const auto digit = [&](const E& e, int pass) {
    return (uint64_t{key_of(e)} >> (shift + pass * kDigitBits)) & (kDigits - 1);
  };
  std::array<std::array<uint32_t, kDigits>, kPasses> counts{};
  for (int64_t i = 0; i < count; ++i) {
    for (int pass = 0; pass < kPasses; ++pass) ++counts[pass][digit(elements[i], pass)];
  }
  E *from = elements, *to = scratch;
  for (int pass = 0; pass < kPasses; ++pass) {
    auto& starts = counts[pass];
    if (starts[digit(from[0], pass)] == count) continue;  // one digit only
    uint32_t start = 0;
    for (uint32_t& bucket : starts) start += std::exchange(bucket, start);
    for (int64_t i = 0; i < count; ++i) to[starts[digit(from[i], pass)]++] = from[i];
    std::swap(from, to);
  }
  if (from != elements) std::copy(from, from + count, elements);
}

// Gives up after `moves`, with the elements in some order.
template <class E>
bool insertion_sort(E* elements, int64_t count, int64_t moves) {
  for (int64_t i = 1; i < count; ++i) {
    if (!(elements[i] < elements[i - 1])) continue;
    const E element = elements[i];
    int64_t j = i;
    for (; j > 0 && element < elements[j - 1]; --j) elements[j] = elements[j - 1];
    elements[j] = element;
    if ((moves -= i - j) < 0) return false;
  }
  return true;
}

// Sorts elements whose order is first that of their 32-bit keys. Two digits of the bits in which keys differ leave
// little to do: at most two moves an element are tried. Where most keys are next to one another, or many are equal and
// come out of order, all digits are sorted by, and then each run of equal keys.
template <class E, class KeyOf>
void radix_sort(E* elements, E* scratch, int64_t count, const KeyOf& key_of) {
  if (count == 0) return;
  uint32_t low = key_of(elements[0]), high = low;
  for (int64_t i = 1; i < count; ++i)
    low = std::min(low, key_of(elements[i])), high = std::max(high, key_of(elements[i]));
  const auto above_low = [&](const E& e) { return key_of(e) - low; };
  sort_by_digits<2>(elements, scratch, count, above_low, std::max(0, int(std::bit_width(high - low)) - 2 * kDigitBits));
  if (insertion_sort(elements, count, 2 * count)) return;
  sort_by_digits<3>(elements, scratch, count, above_low, 0);
  for (E* equal = elements; equal < elements + count;) {
    E* next = equal + 1;
    while (next < elements + count && key_of(*next) == key_of(*equal)) ++next;
    if (next - equal > 1) std::sort(equal, next);
    equal = next;
  }
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
