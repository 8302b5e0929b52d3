// Boxes on the host, taken apart by class and put together again: rank once, suppress each class on its own, merge in
// rank order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

#include "common/memory.h"
#include "common/parallel.h"
#include "common/rank.h"

namespace fastvision::nms {

// Indices by descending score, those not above the threshold left out.
template <class S>
std::vector<int64_t> rank(const S* scores, int64_t n, const std::optional<double>& threshold) {
  if (!threshold) return rank_descending(scores, n, [](S) { return true; });
  return rank_descending(scores, n, [least = S(*threshold)](S score) { return score > least; });
}

// Ranks looked at before more are.
constexpr int64_t kFirstRanks = 4096;

// Stable grouping of positions by class: [offsets[g], offsets[g + 1]) of `members` are those of one class, ascending.
struct Groups {
  std::vector<int64_t> members, offsets;
  int64_t count() const { return int64_t(offsets.size()) - 1; }
};

// The classes of positions 0 ... n - 1 are idxs[order[0]] ... idxs[order[n - 1]].
inline Groups group_by_class(const int64_t* idxs, const int64_t* order, int64_t n) {
  Groups groups;
  groups.members.resize(n);
  groups.offsets.push_back(0);
  if (n == 0) return groups;
  const Buffer<int64_t> ids(n);
  int64_t low = std::numeric_limits<int64_t>::max(), high = std::numeric_limits<int64_t>::min();
  for (int64_t r = 0; r < n; ++r) {
    const int64_t id = ids[r] = idxs[order[r]];
    low = std::min(low, id), high = std::max(high, id);
  }
  const uint64_t range = uint64_t(high) - uint64_t(low);
  if (range < uint64_t(4 * n + 1024)) {  // counting sort
    std::vector<int64_t> start(range + 2, 0);
    for (int64_t r = 0; r < n; ++r) ++start[ids[r] - low + 1];
    std::partial_sum(start.begin(), start.end(), start.begin());
    for (size_t g = 0; g <= range; ++g) {
      if (start[g + 1] > start[g]) groups.offsets.push_back(start[g + 1]);
    }
    for (int64_t r = 0; r < n; ++r) groups.members[start[ids[r] - low]++] = r;
  } else {
    std::iota(groups.members.begin(), groups.members.end(), 0);
    std::stable_sort(groups.members.begin(), groups.members.end(),
                     [&](int64_t a, int64_t b) { return ids[a] < ids[b]; });
    for (int64_t r = 1; r <= n; ++r) {
      if (r == n || ids[groups.members[r]] != ids[groups.members[r - 1]]) groups.offsets.push_back(r);
    }
  }
  return groups;
}

// body(g) for every class of n positions, over threads where there is enough to do.
template <class Body>
void for_each_class(const Groups& groups, int64_t n, const Body& body) {
  parallel_for(groups.count(), n < 2000 ? groups.count() : 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) body(g);
  });
}

// The kept of `order`, in that order. suppress(indices, kept) writes which positions of `indices`, one class in rank
// order, survive, ascending (room for all), and returns how many.
template <class Suppress>
std::vector<int64_t> kept_of_classes(const std::vector<int64_t>& order, const int64_t* idxs, int64_t max_output,
                                     const Suppress& suppress) {
  const int64_t n = int64_t(order.size());
  std::vector<int64_t> kept;
  if (!idxs) {
    kept.resize(std::min(n, max_output));
    kept.resize(suppress(order, kept.data()));
    for (int64_t& position : kept) position = order[position];
    return kept;
  }
  // What is kept of the first ranks decides those alone: where few of many are wanted, few need to be looked at.
  for (int64_t ranks = std::max(kFirstRanks, 4 * std::min(n, max_output));; ranks *= 4) {
    if (n < 2 * ranks) ranks = n;
    const Groups groups = group_by_class(idxs, order.data(), ranks);
    std::vector<uint8_t> keep(ranks, 0);
    for_each_class(groups, ranks, [&](int64_t g) {
      const int64_t begin = groups.offsets[g], size = groups.offsets[g + 1] - begin;
      const int64_t* members = groups.members.data() + begin;
      std::vector<int64_t> indices(size), survivors(std::min(size, max_output));
      for (int64_t i = 0; i < size; ++i) indices[i] = order[members[i]];
      const int64_t count = suppress(indices, survivors.data());
      for (int64_t i = 0; i < count; ++i) keep[members[survivors[i]]] = 1;
    });
    kept.resize(ranks);
    int64_t count = 0;
    for (int64_t r = 0; r < ranks && count < max_output; ++r) kept[count] = order[r], count += keep[r];
    kept.resize(count);
    if (ranks == n || count == max_output) return kept;
  }
}

}  // namespace fastvision::nms
