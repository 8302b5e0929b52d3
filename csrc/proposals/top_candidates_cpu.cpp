// top_candidates on the CPU: one pass over the scores, comparing with the k-th best so far, at first with what a sample
// makes of it. Little passes, so the pass runs at the speed of memory; what passes is thinned out whenever it has
// doubled.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/rank.h"
#include "common/score_key.h"
#include "common/simd.h"
#include "proposals/top_candidates.h"

namespace fastvision::top_candidates {
namespace {

constexpr int kStrip = 64;                   // scores compared before one is looked at
constexpr int64_t kItem = int64_t(1) << 19;  // scores a thread takes at a time
constexpr int64_t kLeast = 2048;             // candidates held beyond k before they are thinned out
constexpr int64_t kSmallSample = 256, kLargeSample = 1024;

// (key, index), ascending by rank. float32 scores pack into one word.
template <class C>
struct Entry;
template <>
struct Entry<float> {
  uint64_t word;
  Entry() = default;
  Entry(float score, int64_t index) : word(uint64_t{descending_key(score)} << 32 | uint64_t(index)) {}
  float score() const { return score_of_key(uint32_t(word >> 32)); }
  int64_t index() const { return int64_t(word & UINT32_MAX); }
  bool operator<(const Entry& other) const { return word < other.word; }
};
template <>
struct Entry<double> {
  std::pair<uint64_t, int64_t> pair;
  Entry() = default;
  Entry(double score, int64_t index) : pair(descending_key(score), index) {}
  double score() const { return score_of_key(pair.first); }
  int64_t index() const { return pair.second; }
  bool operator<(const Entry& other) const { return pair < other.pair; }
};

template <class C>
void rank(Entry<C>* begin, Entry<C>* end, std::vector<Entry<C>>& scratch) {
  if constexpr (std::is_same_v<C, float>) {
    if (end - begin >= kRadixFrom) {
      if (int64_t(scratch.size()) < end - begin) scratch.resize(end - begin);
      radix_sort(begin, scratch.data(), end - begin, [](const Entry<C>& e) { return uint32_t(e.word >> 32); });
      return;
    }
  }
  std::sort(begin, end);
}

// The best k of what was taken in since `start`. `cutoff` is at most the score of the k-th best of the whole row, on
// all threads, or a guess of it, which `complete` judges when all is done.
template <class C>
class Best {
 public:
  Best(int64_t k, bool sigmoid) : k_(size_t(k)), sigmoid_(sigmoid) {}

  // for `count` candidates at most
  void start(int64_t count, std::atomic<C>& cutoff, C guess) {
    full_ = size_t(std::min(2 * int64_t(k_) + kLeast, count));
    if (entries_.size() < full_ + kStrip) entries_.resize(full_ + kStrip);
    size_ = 0;
    shared_ = &cutoff;
    guess_ = guess;
    worst_ = -std::numeric_limits<C>::infinity();
    cutoff_ = std::max(cutoff.load(), guess_);
  }

  // After the last `thin_out`: whether nothing that the guess kept out could be among the best.
  bool complete() const { return !(guess_ > std::max(shared_->load(), worst_)); }  // a NaN threshold too

  C cutoff() const { return cutoff_; }

  // Of kStrip scores at most those that reach the cutoff; without a branch, because where some do, many may.
  template <class S, class IndexOf>
  [[gnu::always_inline]] void take(const S* data, int count, const IndexOf& index_of) {
    const C cutoff = cutoff_;
    uint8_t hits[kStrip];
    int hit = 0;
    for (int l = 0; l < count; ++l) {
      hits[hit] = uint8_t(l);
      hit += C(data[l]) >= cutoff;
    }
    Entry<C>* end = entries_.data() + size_;
    for (int h = 0; h < hit; ++h) end[h] = Entry<C>(C(data[hits[h]]), index_of(hits[h]));
    for (int h = 0; sigmoid_ && h < hit; ++h) {
      const C score = C(data[hits[h]]);
      if (score >= C(kMergedFrom)) end[h] = Entry<C>(merged(score), index_of(hits[h]));
    }
    size_ += size_t(hit);
    if (size_ >= full_) thin_out();
  }

  // Leaves the best k at most, in the order of rank.
  [[gnu::noinline]] void thin_out() {
    rank(begin(), end(), scratch_);
    if (k_ > 0 && size_ >= k_) {
      size_ = k_;
      const C last = entries_[k_ - 1].score();
      worst_ = sigmoid_ ? least_merged(last) : last;
      C known = shared_->load();
      while (worst_ > known && !shared_->compare_exchange_weak(known, worst_)) {
      }
    }
    cutoff_ = std::max(shared_->load(), guess_);
  }

  Entry<C>* begin() { return entries_.data(); }
  Entry<C>* end() { return entries_.data() + size_; }

 private:
  size_t k_, full_ = 0, size_ = 0;
  bool sigmoid_;
  C cutoff_ = 0, guess_ = 0, worst_ = 0;
  std::atomic<C>* shared_ = nullptr;
  std::vector<Entry<C>> entries_, scratch_;
};

template <class S, class C, class IndexOf>
[[gnu::always_inline]] inline void scan(const S* data, int64_t count, Best<C>& best, const IndexOf& index_of) {
  for (int64_t m = 0; m < count; m += kStrip) {
    const auto index = [&](int l) __attribute__((always_inline)) { return index_of(m + l); };
    if (m + kStrip > count) {
      best.take(data + m, int(count - m), index);
      break;
    }
    const C cutoff = best.cutoff();
    int any = 0;
    for (int l = 0; l < kStrip; ++l) any |= C(data[m + l]) >= cutoff;
    if (any) best.take(data + m, kStrip, index);
  }
}

// Part [begin, end) of a row's candidates, in the order of memory.
struct Item {
  int64_t row, begin, end;
};

// A score that the k-th best of an item most likely reaches, and few more do: an order statistic of an evenly spaced
// sample, three standard deviations to the safe side. -inf where a sample would not pay.
template <class S, class C>
C guess_of(const Maps<S>& maps, const Item& item, int64_t k, std::vector<C>& sample) {
  const int64_t count = item.end - item.begin, some = std::clamp<int64_t>(count / 32, kSmallSample, kLargeSample);
  const double expected = double(some) * double(k) / double(count);
  const int64_t place = int64_t(expected + 3 * std::sqrt(expected)) + 1;
  if (count < 16 * kSmallSample || 4 * place > some) return -std::numeric_limits<C>::infinity();
  sample.clear();
  int64_t first = 0;
  for (int l = maps.first_level(item.row); l < maps.last_level(item.row); ++l) {
    const Level<S> level = maps.level[l];
    const int64_t size = maps.size_of(level);
    while (int64_t(sample.size()) < some) {
      const int64_t m = item.begin + int64_t(sample.size()) * count / some - first;
      if (m >= size) break;
      const C score = C(*maps.address(level, item.row, m));
      sample.push_back(score == score ? score : -std::numeric_limits<C>::infinity());
    }
    first += size;
  }
  std::nth_element(sample.begin(), sample.begin() + place, sample.end(), std::greater<C>());
  return sample[place];
}

template <class S, class C>
void scan_item(const Maps<S>& maps, const Item& item, Best<C>& best) {
  int64_t first = 0;  // candidates of earlier levels
  for (int l = maps.first_level(item.row); l < maps.last_level(item.row); ++l) {
    const Level<S> level = maps.level[l];
    const int64_t size = maps.size_of(level);
    int64_t m = std::max<int64_t>(item.begin - first, 0);
    const int64_t end = std::min(item.end - first, size);
    first += size;
    while (m < end) {  // a run of memory: a plane, or the whole map
      const int64_t run = level.channels_last ? end : std::min(end, (m / level.cells + 1) * level.cells);
      const S* data = maps.address(level, item.row, m);
      const int64_t index = maps.index(level, m), step = level.channels_last ? 1 : maps.per_cell(level);
      vectorized([&]() __attribute__((always_inline)) {
        scan(data, run - m, best, [=](int64_t i) __attribute__((always_inline)) { return index + i * step; });
      });
      m = run;
    }
  }
}

// [begin, end), which are ranked, and -1 after the last.
template <class C>
void write(Entry<C>* begin, Entry<C>* end, int64_t k, bool ranked, int64_t* indices, C* values) {
  if (!ranked) std::sort(begin, end, [](const auto& a, const auto& b) { return a.index() < b.index(); });
  const int64_t count = end - begin;
  for (int64_t j = 0; j < count; ++j) indices[j] = begin[j].index(), values[j] = begin[j].score();
  std::fill(indices + count, indices + k, -1);
  std::fill(values + count, values + k, -std::numeric_limits<C>::infinity());
}

template <class S>
void choose(const Maps<S>& maps, int64_t k, double threshold, bool sigmoid, bool ranked, int64_t* indices,
            Accumulator<S>* values) {
  using C = Accumulator<S>;
  const int64_t rows = maps.images * maps.rows_an_image();
  std::vector<Item> items;
  std::vector<int64_t> first;  // items of each row
  for (int64_t row = 0; row < rows; ++row) {
    first.push_back(int64_t(items.size()));
    const int64_t size = maps.size_of(row);
    for (int64_t begin = 0; begin == 0 || begin < size; begin += kItem) {
      items.push_back({row, begin, std::min(begin + kItem, size)});
    }
  }
  first.push_back(int64_t(items.size()));
  std::vector<std::atomic<C>> cutoffs(rows);
  for (auto& cutoff : cutoffs) cutoff = C(threshold);
  std::vector<std::vector<Entry<C>>> found(items.size());
  parallel_workers(int64_t(items.size()), [&](const auto& next) {
    Best<C> best(k, sigmoid);
    std::vector<C> sample;
    for (int64_t i = next(); i < int64_t(items.size()); i = next()) {
      const Item& item = items[i];
      C guess = guess_of(maps, item, k, sample);
      do {
        best.start(item.end - item.begin, cutoffs[item.row], guess);
        scan_item(maps, item, best);
        best.thin_out();
        guess = -std::numeric_limits<C>::infinity();
      } while (!best.complete());
      if (first[item.row + 1] - first[item.row] == 1) {
        write(best.begin(), best.end(), k, ranked, indices + item.row * k, values + item.row * k);
      } else {
        found[i].assign(best.begin(), best.end());
      }
    }
  });
  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<Entry<C>> all, scratch;
    for (int64_t row = begin; row < end; ++row) {
      if (first[row + 1] - first[row] == 1) continue;
      all.clear();
      for (int64_t i = first[row]; i < first[row + 1]; ++i) all.insert(all.end(), found[i].begin(), found[i].end());
      rank(all.data(), all.data() + all.size(), scratch);
      all.resize(std::min(all.size(), size_t(k)));
      write(all.data(), all.data() + all.size(), k, ranked, indices + row * k, values + row * k);
    }
  });
}

std::tuple<Tensor, Tensor> top_candidates(std::vector<Tensor> scores, int64_t classes, int64_t k, double threshold,
                                          bool sigmoid, bool ranked) {
  validate(scores, classes, k);
  for (Tensor& map : scores) map = readable(map, classes);
  return dispatch_floating(kOp, scores[0].scalar_type(), [&](auto s) -> std::tuple<Tensor, Tensor> {
    using S = typename decltype(s)::type;
    const Maps<S> maps = maps_of<S>(scores, classes);
    const int64_t chosen = chosen_of(maps, k), rows = maps.rows_an_image();
    Tensor indices = empty_tensor(scores[0], {maps.images, rows, chosen}, ScalarType::Long);
    Tensor values = empty_tensor(scores[0], {maps.images, rows, chosen}, geometry_type(scores[0].scalar_type()));
    if (indices.numel() > 0) {
      choose(maps, chosen, threshold, sigmoid, ranked, indices.mutable_data_ptr<int64_t>(),
             values.mutable_data_ptr<Accumulator<S>>());
    }
    return {indices, values};
  });
}

}  // namespace
}  // namespace fastvision::top_candidates

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("top_candidates", TORCH_BOX(&fastvision::top_candidates::top_candidates));
}
