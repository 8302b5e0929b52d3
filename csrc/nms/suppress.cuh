// Greedy suppression on CUDA, a batch of sets at once, memory linear in N. Ranks are taken a chunk at a time:
//   overlaps   a bit for each pair of the chunk, upper triangle (Girshick's bitmask, as in torchvision)
//   resolve    one block a set walks the chunk 64 boxes at a time and appends the kept ones to the result
//   retire     every later box meets the boxes just kept
// The result is in rank order by construction, and nothing is read back.
//
// A Measure says what a box is and when a kept one suppresses another:
//   Row, kColumns      what a stored box consists of
//   Box                a box as the kernels hold it
//   Box load(const Row*) const; bool over(const Box& kept, const Box& other) const
#pragma once

#include "common/launch.cuh"
#include "common/rank_cuda.cuh"
#include "nms/nms.h"

namespace fastvision::nms {

constexpr int kWord = 64;                    // boxes a word of the bitmask, and threads a block of it
constexpr int64_t kChunk = 4096;             // ranks a chunk: a bitmask of 2 MiB a set
constexpr int kWords = int(kChunk) / kWord;  // words a row
constexpr int kThreads = 256;

// B sets of N boxes in rank order, and what becomes of them.
template <class Measure>
struct Ranked {
  Measure measure;
  typename Measure::Box* boxes;  // [B, N] in rank order
  int64_t* classes;              // [B, N], or null
  uint8_t* dead;                 // [B, N]
  const int64_t* order;          // [B, N] indices by rank
  uint64_t* mask;                // [B, min(N, kChunk), kWords]
  int64_t* kept;                 // [B, limit] ranks
  int64_t* out;                  // [B, limit] indices
  int64_t* counts;               // [chunks + 1, B] kept before each chunk, and in all
  int64_t sets, count, limit;    // B, N, and how many are kept at most

  // From set b on.
  FV_HOST_DEVICE Ranked set(int64_t b) const {
    Ranked one = *this;
    one.boxes += b * count, one.dead += b * count, one.order += b * count;
    if (classes) one.classes += b * count;
    one.mask += b * minimum(count, kChunk) * kWords;
    one.kept += b * limit, one.out += b * limit, one.counts += b;
    return one;
  }

  FV_DEVICE bool over(int64_t r, const typename Measure::Box& keeper, const typename Measure::Box& box,
                      int64_t keeper_class) const {
    return (!classes || classes[r] == keeper_class) && measure.over(keeper, box);
  }
};

template <class Measure, class S>
__global__ void gather(const typename Measure::Row* rows, const int64_t* idxs, const S* scores, bool filter, S least,
                       Ranked<Measure> sets) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x, first = int64_t(blockIdx.z) * sets.count;
  if (r >= sets.count) return;
  const Ranked<Measure> ranked = sets.set(blockIdx.z);
  const int64_t i = first + ranked.order[r];
  ranked.boxes[r] = ranked.measure.load(rows + Measure::kColumns * i);
  if (idxs) ranked.classes[r] = idxs[i];
  ranked.dead[r] = filter && !(scores[i] > least);
}

// mask [.., kWords]: bit b of word w in row i is set if rank begin + i suppresses rank begin + 64 w + b, w 64 + b > i
template <class Measure>
__global__ void __launch_bounds__(kWord) overlaps(Ranked<Measure> sets, int64_t begin, int64_t end) {
  if (blockIdx.x < blockIdx.y) return;  // lower triangle
  using Box = typename Measure::Box;
  FV_SHARED(Box, columns, [kWord]);
  const Ranked<Measure> ranked = sets.set(blockIdx.z);
  const int t = threadIdx.x;
  const int64_t row = begin + int64_t(blockIdx.y) * kWord + t, first = begin + int64_t(blockIdx.x) * kWord;
  if (first + t < end) columns[t] = ranked.boxes[first + t];
  __syncthreads();
  if (row >= end) return;
  const Box box = ranked.boxes[row];
  const int64_t row_class = ranked.classes ? ranked.classes[row] : 0;
  uint64_t bits = 0;
  for (int b = 0; b < kWord && first + b < end; ++b) {
    if (first + b > row && ranked.over(first + b, box, columns[b], row_class)) bits |= uint64_t(1) << b;
  }
  ranked.mask[(row - begin) * kWords + blockIdx.x] = bits;
}

// Appends the kept of ranks [begin, end) to the result; chunk c.
template <class Measure>
__global__ void __launch_bounds__(kThreads) resolve(Ranked<Measure> sets, int64_t begin, int64_t end, int64_t c) {
  FV_SHARED(unsigned long long, removed, [kWords]);
  FV_SHARED(uint64_t, diagonal, [kWord]);
  FV_SHARED(uint64_t, survivors, [kWords]);
  FV_SHARED(int64_t, starts, [kWords]);
  const Ranked<Measure> ranked = sets.set(blockIdx.z);
  const int t = threadIdx.x;
  const int words = int(ceil_div(end - begin, int64_t(kWord)));
  for (int w = t; w < words; w += kThreads) {
    unsigned long long bits = 0;
    for (int b = 0; b < kWord; ++b) {
      const int64_t r = begin + int64_t(w) * kWord + b;
      if (r >= end || ranked.dead[r]) bits |= 1ull << b;
    }
    removed[w] = bits;
  }
  __syncthreads();

  for (int w = 0; w < words; ++w) {
    const int64_t row = int64_t(w) * kWord + t;
    if (t < kWord) diagonal[t] = begin + row < end ? ranked.mask[row * kWords + w] : 0;
    __syncthreads();
    if (t == 0) {  // the one serial step: 64 boxes among themselves
      uint64_t gone = removed[w];
      for (int b = 0; b < kWord; ++b) {
        if (!(gone >> b & 1)) gone |= diagonal[b];
      }
      survivors[w] = ~gone;
    }
    __syncthreads();
    // the kept rows of this word strike out later words: kThreads / kWord groups of rows, one thread a word
    const int later = t % kWord;
    if (later > w && later < words) {
      uint64_t struck = 0;
      for (int b = t / kWord; b < kWord; b += kThreads / kWord) {
        if (survivors[w] >> b & 1) struck |= ranked.mask[(int64_t(w) * kWord + b) * kWords + later];
      }
      if (struck) atomicOr(&removed[later], static_cast<unsigned long long>(struck));
    }
    __syncthreads();
  }

  if (t == 0) {
    int64_t next = ranked.counts[c * ranked.sets];
    for (int w = 0; w < words; ++w) {
      starts[w] = next;
      next += __popcll(survivors[w]);
    }
    ranked.counts[(c + 1) * ranked.sets] = minimum(next, ranked.limit);
  }
  __syncthreads();
  for (int64_t r = begin + t; r < end; r += kThreads) {
    const int w = int(r - begin) / kWord, b = int(r - begin) % kWord;
    if (!(survivors[w] >> b & 1)) continue;
    const int64_t position = starts[w] + __popcll(survivors[w] & ((uint64_t(1) << b) - 1));
    if (position < ranked.limit) ranked.kept[position] = r, ranked.out[position] = ranked.order[r];
  }
}

// Ranks [begin, N) against the boxes kept in chunk c
template <class Measure>
__global__ void __launch_bounds__(kThreads) retire(Ranked<Measure> sets, int64_t begin, int64_t c) {
  using Box = typename Measure::Box;
  FV_SHARED(Box, tile, [kThreads]);
  FV_SHARED(int64_t, tile_classes, [kThreads]);
  const Ranked<Measure> ranked = sets.set(blockIdx.z);
  const int t = threadIdx.x;
  const int64_t r = begin + int64_t(blockIdx.x) * kThreads + t;
  const int64_t before = ranked.counts[c * ranked.sets], after = ranked.counts[(c + 1) * ranked.sets];
  bool alive = r < ranked.count && !ranked.dead[r];
  const Box box = r < ranked.count ? ranked.boxes[r] : Box{};
  for (int64_t base = before; base < after; base += kThreads) {
    const int tiles = int(minimum(after - base, int64_t(kThreads)));
    if (t < tiles) {
      tile[t] = ranked.boxes[ranked.kept[base + t]];
      tile_classes[t] = ranked.classes ? ranked.classes[ranked.kept[base + t]] : 0;
    }
    __syncthreads();
    for (int b = 0; b < tiles && alive; ++b) alive = !ranked.over(r, tile[b], box, tile_classes[b]);
    if (!__syncthreads_or(alive)) break;
  }
  if (r < ranked.count && !alive) ranked.dead[r] = 1;
}

struct Kept {
  Tensor indices;  // [B, limit], -1 after the last
  Tensor counts;   // [B]
};

// rows [B, N, kColumns], scores [B, N], idxs [B, N] where given, all contiguous.
template <class Measure>
Kept suppress(const char* op, const Measure& measure, const Tensor& rows, const Tensor& scores,
              const std::optional<Tensor>& idxs, int64_t sets, int64_t n, int64_t limit,
              std::optional<double> score_threshold) {
  const auto integers = [&](int64_t count) { return empty_vector(rows, count, ScalarType::Long); };
  Tensor out = empty_tensor(rows, {sets, limit}, ScalarType::Long);
  torch::stable::fill_(out, -1);
  const int64_t chunks = ceil_div(n, kChunk);
  Tensor counts = integers((chunks + 1) * sets);
  clear_tensor(counts);
  if (n > 0 && sets > 0 && limit > 0) {
    const Tensor order = rank(op, scores, sets, n);
    Tensor boxes = empty_vector(rows, sets * n * int64_t(sizeof(typename Measure::Box)), ScalarType::Byte);
    Tensor dead = empty_vector(rows, sets * n, ScalarType::Byte);
    Tensor classes = integers(idxs ? sets * n : 0), mask = integers(sets * minimum(n, kChunk) * kWords);
    Tensor kept = integers(sets * limit);
    const Ranked<Measure> ranked{measure,
                                 reinterpret_cast<typename Measure::Box*>(boxes.mutable_data_ptr<uint8_t>()),
                                 idxs ? classes.mutable_data_ptr<int64_t>() : nullptr,
                                 dead.mutable_data_ptr<uint8_t>(),
                                 order.const_data_ptr<int64_t>(),
                                 reinterpret_cast<uint64_t*>(mask.mutable_data_ptr<int64_t>()),
                                 kept.mutable_data_ptr<int64_t>(),
                                 out.mutable_data_ptr<int64_t>(),
                                 counts.mutable_data_ptr<int64_t>(),
                                 sets,
                                 n,
                                 limit};
    constexpr int64_t kSets = 4096;  // of a grid, which holds 65 535: enough to fill any GPU, few enough to test
    for (int64_t first = 0; first < sets; first += kSets) {
      const Ranked<Measure> some = ranked.set(first);
      const unsigned z = unsigned(minimum(sets - first, kSets));
      dispatch_geometry(scores.scalar_type(), [&](auto s) {
        using S = typename decltype(s)::type;
        launch(op, &gather<Measure, S>, {dim3(blocks_for(n, kThreads), 1, z), kThreads}, rows,
               rows.const_data_ptr<typename Measure::Row>() + Measure::kColumns * first * n,
               idxs ? idxs->const_data_ptr<int64_t>() + first * n : nullptr, scores.const_data_ptr<S>() + first * n,
               score_threshold.has_value(), S(score_threshold.value_or(0)), some);
      });
      for (int64_t begin = 0, c = 0; begin < n; begin += kChunk, ++c) {
        const int64_t end = minimum(begin + kChunk, n);
        const unsigned tiles = blocks_for(end - begin, kWord);
        launch(op, &overlaps<Measure>, {dim3(tiles, tiles, z), kWord}, rows, some, begin, end);
        launch(op, &resolve<Measure>, {dim3(1, 1, z), kThreads}, rows, some, begin, end, c);
        launch(op, &retire<Measure>, {dim3(blocks_for(n - end, kThreads), 1, z), kThreads}, rows, some, end, c);
      }
    }
  }
  return {out, torch::stable::narrow(counts, 0, chunks * sets, sets)};
}

// The indices of one set as a tensor of their own length, which has to be read back.
inline Tensor trimmed(const char* op, const Kept& kept, int64_t limit) {
  const int64_t total = read_back(op, kept.counts, kept.counts.const_data_ptr<int64_t>());
  Tensor flat = torch::stable::view(kept.indices, {limit});
  return torch::stable::narrow(flat, 0, 0, total);
}

}  // namespace fastvision::nms
