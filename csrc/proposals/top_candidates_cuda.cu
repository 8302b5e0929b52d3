// top_candidates on CUDA by radix selection: a pass over the scores counts one digit of (key, index) among those that
// equal the limit so far in all digits above it, and so finds the next digit of the k-th best. No pass stores scores,
// nothing is read back, and once the digits found single out exactly k, later passes end at once.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "common/scalar.h"
#include "common/score_key.h"
#include "common/sort.h"
#include "proposals/top_candidates.h"

namespace fastvision::top_candidates {
namespace {

constexpr int kThreads = 256;
constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
constexpr int kIndexBits = 31;  // validate() sees to it
constexpr int64_t kScoresABlock = kThreads * 16;

template <class C>
using Key = decltype(descending_key(C()));

template <class C>
constexpr int kKeyPasses = (8 * int(sizeof(C)) + kDigitBits - 1) / kDigitBits;
constexpr int kIndexPasses = (kIndexBits + kDigitBits - 1) / kDigitBits;

// What is known of the k-th best of a row: (key, index) is at most (limit_key, limit_index), lower digits still ones.
template <class C>
struct State {
  Key<C> limit_key;
  uint32_t limit_index;
  int64_t wanted;  // how many of those that equal the limit in all digits found so far
  bool done;
};

// Digits from the highest: those of the key, then those of the index.
template <class C>
FV_DEVICE int shift_of(int pass) {
  return pass < kKeyPasses<C> ? maximum(8 * int(sizeof(C)) - (pass + 1) * kDigitBits, 0)
                              : maximum(kIndexBits - (pass - kKeyPasses<C> + 1) * kDigitBits, 0);
}

template <class C>
FV_DEVICE int width_of(int pass) {
  const bool of_key = pass < kKeyPasses<C>;
  const int bits = of_key ? 8 * int(sizeof(C)) : kIndexBits, before = (of_key ? pass : pass - kKeyPasses<C>)*kDigitBits;
  return minimum(kDigitBits, bits - before);
}

// Which scores are candidates, and whether they are merged.
template <class C>
struct Rule {
  C threshold;
  bool sigmoid;
};

// Calls f(score, level, m) for this thread's share of a row's candidates.
template <class S, class F>
FV_DEVICE void for_each_score(const Maps<S>& maps, int64_t row, Rule<Accumulator<S>> rule, const F& f) {
  int64_t first = 0;
  for (int l = maps.first_level(row); l < maps.last_level(row); ++l) {
    const Level<S>& level = maps.level[l];
    const int64_t size = maps.size_of(level);
    // blocks take the row's candidates in turn, across levels
    int64_t m = int64_t(blockIdx.x) * kThreads + threadIdx.x - first % (int64_t(gridDim.x) * kThreads);
    if (m < 0) m += int64_t(gridDim.x) * kThreads;
    for (; m < size; m += int64_t(gridDim.x) * kThreads) {
      const Accumulator<S> score(*maps.address(level, row, m));
      if (score >= rule.threshold) f(rule.sigmoid ? merged(score) : score, level, m);
    }
    first += size;
  }
}

template <class C>
__global__ void begin(State<C>* states, int64_t rows, int64_t k, unsigned* histograms, int* counts) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < rows * kDigits) histograms[i] = 0;
  if (i < rows) states[i] = {~Key<C>(0), 0x7fffffffu, k, false}, counts[i] = 0;
}

template <class S>
__global__ void __launch_bounds__(kThreads)
    count_digits(Maps<S> maps, int64_t first_row, Rule<Accumulator<S>> rule, const State<Accumulator<S>>* states,
                 int pass, unsigned* histograms) {
  using C = Accumulator<S>;
  FV_SHARED(unsigned, counts, [kDigits]);
  const int64_t row = first_row + blockIdx.z;
  const State<C> state = states[row];
  if (state.done) return;
  for (int d = threadIdx.x; d < kDigits; d += kThreads) counts[d] = 0;
  __syncthreads();
  const int shift = shift_of<C>(pass), width = width_of<C>(pass);
  for_each_score(maps, row, rule, [&](C score, const Level<S>& level, int64_t m) {
    const Key<C> key = descending_key(score);
    int digit;
    if (pass < kKeyPasses<C>) {
      if (pass > 0 && key >> (shift + width) != state.limit_key >> (shift + width)) return;
      digit = int(key >> shift & (kDigits - 1));
    } else {
      if (key != state.limit_key) return;
      const uint32_t index = uint32_t(maps.index(level, m));
      if (pass > kKeyPasses<C> && index >> (shift + width) != state.limit_index >> (shift + width)) return;
      digit = int(index >> shift & (kDigits - 1));
    }
    atomicAdd(&counts[digit & ((1 << width) - 1)], 1u);
  });
  __syncthreads();
  for (int d = threadIdx.x; d < kDigits; d += kThreads) {
    if (counts[d]) atomicAdd(&histograms[row * kDigits + d], counts[d]);
  }
}

// One block a row: the digit of the k-th best.
template <class C>
__global__ void __launch_bounds__(kThreads) find_digit(State<C>* states, int pass, unsigned* histograms) {
  constexpr int kEach = kDigits / kThreads;
  FV_SHARED(int64_t, before, [kThreads + 1]);
  unsigned* counts = histograms + int64_t(blockIdx.x) * kDigits;
  State<C>& state = states[blockIdx.x];
  if (state.done) return;
  const int t = threadIdx.x;
  int64_t mine = 0;
  for (int d = t * kEach; d < (t + 1) * kEach; ++d) mine += counts[d];
  before[t + 1] = mine;
  __syncthreads();
  if (t == 0) {
    before[0] = 0;
    for (int i = 0; i < kThreads; ++i) before[i + 1] += before[i];
  }
  __syncthreads();
  const int64_t wanted = state.wanted;
  __syncthreads();
  if (before[kThreads] < wanted) {  // fewer candidates than places: all of them, which only the first pass can find
    if (t == 0) state.done = true;
  } else if (before[t] < wanted && wanted <= before[t + 1]) {
    int64_t left = wanted - before[t];
    int digit = t * kEach;
    while (left > counts[digit]) left -= counts[digit++];
    const int shift = shift_of<C>(pass), width = width_of<C>(pass);
    const auto put = [&](auto limit) {
      using L = decltype(limit);
      return (limit & ~(L((1 << width) - 1) << shift)) | L(digit) << shift;
    };
    if (pass < kKeyPasses<C>) {
      state.limit_key = put(state.limit_key);
    } else {
      state.limit_index = put(state.limit_index);
    }
    state.done = left == counts[digit];
    state.wanted = left;
  }
  __syncthreads();
  for (int d = t; d < kDigits; d += kThreads) counts[d] = 0;
}

// Candidates up to the limit, in any order.
template <class S>
__global__ void __launch_bounds__(kThreads)
    collect(Maps<S> maps, int64_t first_row, Rule<Accumulator<S>> rule, const State<Accumulator<S>>* states, int64_t k,
            int* counts, int64_t* indices, Accumulator<S>* values) {
  using C = Accumulator<S>;
  const int64_t row = first_row + blockIdx.z;
  const State<C> state = states[row];
  for_each_score(maps, row, rule, [&](C score, const Level<S>& level, int64_t m) {
    const Key<C> key = descending_key(score);
    if (key > state.limit_key) return;
    const int64_t index = maps.index(level, m);
    if (key == state.limit_key && index > int64_t(state.limit_index)) return;
    const int64_t place = row * k + atomicAdd(&counts[row], 1);
    indices[place] = index, values[place] = score;
  });
}

constexpr int64_t kNone = int64_t(1) << 62;  // sorts last

template <class C>
__global__ void clear(int64_t count, int64_t* indices, C* values) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) indices[i] = kNone, values[i] = C(-INFINITY);
}

template <class C>
__global__ void make_keys(int64_t count, const int64_t* indices, const C* values, int64_t* keys) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count)
    keys[i] = indices[i] == kNone ? INT64_MAX
                                  : int64_t(descending_key(values[i]) ^ Key<C>(sizeof(C) == 8 ? uint64_t(1) << 63 : 0));
}

template <class C>
__global__ void reorder(int64_t count, int64_t k, const int64_t* order, const int64_t* indices, const C* values,
                        bool last, int64_t* to_indices, C* to_values) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t from = i / k * k + order[i], index = indices[from];
  to_indices[i] = last && index == kNone ? -1 : index;
  to_values[i] = values[from];
}

Tensor chosen_like(const Tensor& like, int64_t images, int64_t rows, int64_t k, ScalarType type) {
  return empty_tensor(like, {images, rows, k}, type);
}

template <class S>
std::tuple<Tensor, Tensor> choose(const Maps<S>& maps, int64_t k, Rule<Accumulator<S>> rule, bool ranked,
                                  const Tensor& like) {
  using C = Accumulator<S>;
  const int64_t rows = maps.images * maps.rows_an_image(), count = rows * k;
  const ScalarType type = sizeof(C) == 8 ? ScalarType::Double : ScalarType::Float;
  const auto fresh = [&](ScalarType of) { return chosen_like(like, maps.images, maps.rows_an_image(), k, of); };
  Tensor indices = fresh(ScalarType::Long), values = fresh(type), found = fresh(ScalarType::Long), scores = fresh(type);
  if (count == 0) return {indices, values};
  Tensor states = empty_vector(like, rows * int64_t(sizeof(State<C>)), ScalarType::Byte);
  Tensor histograms = empty_vector(like, rows * kDigits, ScalarType::Int);
  Tensor counts = empty_vector(like, rows, ScalarType::Int);
  auto* state = reinterpret_cast<State<C>*>(states.mutable_data_ptr<uint8_t>());
  auto* histogram = reinterpret_cast<unsigned*>(histograms.mutable_data_ptr<int>());
  int* places = counts.mutable_data_ptr<int>();
  const unsigned all = blocks_for(count, kThreads);
  launch(kOp, &begin<C>, {blocks_for(rows * kDigits, kThreads), kThreads}, like, state, rows, k, histogram, places);
  launch(kOp, &clear<C>, {all, kThreads}, like, count, found.mutable_data_ptr<int64_t>(), scores.mutable_data_ptr<C>());

  int64_t largest = 0;
  for (int64_t row = 0; row < maps.rows_an_image(); ++row) largest = maximum(largest, maps.size_of(row));
  constexpr int64_t kRows = 32768;  // of a grid
  const auto for_rows = [&](const auto& f) {
    for (int64_t first = 0; first < rows; first += kRows) {
      f(first, dim3(minimum(blocks_for(largest, kScoresABlock), 1024u), 1, unsigned(minimum(rows - first, kRows))));
    }
  };
  for (int pass = 0; pass < kKeyPasses<C> + kIndexPasses; ++pass) {
    for_rows([&](int64_t first, dim3 grid) {
      launch(kOp, &count_digits<S>, {grid, kThreads}, like, maps, first, rule, state, pass, histogram);
    });
    launch(kOp, &find_digit<C>, {blocks_for(rows, 1), kThreads}, like, state, pass, histogram);
  }
  for_rows([&](int64_t first, dim3 grid) {
    launch(kOp, &collect<S>, {grid, kThreads}, like, maps, first, rule, state, k, places,
           found.mutable_data_ptr<int64_t>(), scores.mutable_data_ptr<C>());
  });

  const auto reordered = [&](const Tensor& order, bool last) {
    launch(kOp, &reorder<C>, {all, kThreads}, like, count, k, order.const_data_ptr<int64_t>(),
           found.const_data_ptr<int64_t>(), scores.const_data_ptr<C>(), last, indices.mutable_data_ptr<int64_t>(),
           values.mutable_data_ptr<C>());
  };
  reordered(stable_argsort(found), !ranked);
  if (ranked) {
    std::swap(found, indices), std::swap(scores, values);
    Tensor keys = fresh(ScalarType::Long);
    launch(kOp, &make_keys<C>, {all, kThreads}, like, count, found.const_data_ptr<int64_t>(),
           scores.const_data_ptr<C>(), keys.mutable_data_ptr<int64_t>());
    reordered(stable_argsort(keys), true);
  }
  return {indices, values};
}

std::tuple<Tensor, Tensor> top_candidates(std::vector<Tensor> scores, int64_t classes, int64_t k, double threshold,
                                          bool sigmoid, bool ranked) {
  validate(scores, classes, k);
  for (Tensor& map : scores) map = readable(map, classes);
  return dispatch_floating(kOp, scores[0].scalar_type(), [&](auto s) {
    using S = typename decltype(s)::type;
    const Maps<S> maps = maps_of<S>(scores, classes);
    return choose(maps, chosen_of(maps, k), Rule<Accumulator<S>>{Accumulator<S>(threshold), sigmoid}, ranked,
                  scores[0]);
  });
}

}  // namespace
}  // namespace fastvision::top_candidates

FV_CUDA_LIBRARY(m) { m.impl("top_candidates", TORCH_BOX(&fastvision::top_candidates::top_candidates)); }
