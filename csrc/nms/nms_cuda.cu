// nms on CUDA, memory linear in N. Ranks are taken a chunk at a time:
//   overlaps   a bit for each pair of the chunk, upper triangle (Girshick's bitmask, as in torchvision)
//   resolve    one block walks the chunk 64 boxes at a time and appends the kept ones to the result
//   retire     every later box meets the boxes just kept
// The result is in rank order by construction; only its length is read back.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "common/rank.h"
#include "common/sort.h"
#include "nms/nms.h"

namespace fastvision::nms {
namespace {

constexpr int kWord = 64;                    // boxes a word of the bitmask, and threads a block of it
constexpr int64_t kChunk = 4096;             // ranks a chunk: a bitmask of 2 MiB
constexpr int kWords = int(kChunk) / kWord;  // words a row
constexpr int kThreads = 256;

// Ascending int64 keys for descending scores
template <class S>
__global__ void make_keys(const S* scores, int64_t n, int64_t* keys) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const auto key = descending_key(scores[i]);
  keys[i] = sizeof(key) == 8 ? int64_t(key ^ (uint64_t(1) << 63)) : int64_t(key);
}

template <class T>
struct Ranked {
  Box<T>* boxes;     // [N] in rank order
  int64_t* classes;  // [N], or null
  uint8_t* dead;     // [N]
  int64_t count;     // N
};

template <class T, class S>
__global__ void gather(const T* boxes, const int64_t* idxs, const S* scores, const int64_t* order, bool filter, S least,
                       Ranked<T> ranked) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= ranked.count) return;
  const int64_t i = order[r];
  ranked.boxes[r] = {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
  if (idxs) ranked.classes[r] = idxs[i];
  ranked.dead[r] = filter && !(scores[i] > least);
}

template <Metric metric, class T>
FV_DEVICE bool over(const Ranked<T>& ranked, int64_t a, const Box<T>& kept, const Box<T>& box, int64_t kept_class,
                    T threshold) {
  if (ranked.classes && ranked.classes[a] != kept_class) return false;
  return overlap<metric>(kept, box, box_area(kept), box_area(box)) > threshold;
}

// mask [kChunk, kWords]: bit b of word w in row i is set if rank begin + i suppresses rank begin + 64 w + b, w 64 + b >
// i
template <Metric metric, class T>
__global__ void __launch_bounds__(kWord)
    overlaps(Ranked<T> ranked, int64_t begin, int64_t end, T threshold, uint64_t* mask) {
  if (blockIdx.x < blockIdx.y) return;  // lower triangle
  FV_SHARED(Box<T>, columns, [kWord]);
  const int t = threadIdx.x;
  const int64_t row = begin + int64_t(blockIdx.y) * kWord + t, first = begin + int64_t(blockIdx.x) * kWord;
  if (first + t < end) columns[t] = ranked.boxes[first + t];
  __syncthreads();
  if (row >= end) return;
  const Box<T> box = ranked.boxes[row];
  const int64_t row_class = ranked.classes ? ranked.classes[row] : 0;
  uint64_t bits = 0;
  for (int b = 0; b < kWord && first + b < end; ++b) {
    if (first + b > row && over<metric>(ranked, first + b, box, columns[b], row_class, threshold)) {
      bits |= uint64_t(1) << b;
    }
  }
  mask[(row - begin) * kWords + blockIdx.x] = bits;
}

// Appends the kept ranks of [begin, end) to `kept` and their indices to `out`; counts[0] before, counts[1] after.
template <class T>
__global__ void __launch_bounds__(kThreads)
    resolve(Ranked<T> ranked, int64_t begin, int64_t end, const uint64_t* mask, const int64_t* order,
            int64_t max_output, int64_t* counts, int64_t* kept, int64_t* out) {
  FV_SHARED(unsigned long long, removed, [kWords]);
  FV_SHARED(uint64_t, diagonal, [kWord]);
  FV_SHARED(uint64_t, survivors, [kWords]);
  FV_SHARED(int64_t, starts, [kWords]);
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
    if (t < kWord) diagonal[t] = begin + row < end ? mask[row * kWords + w] : 0;
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
        if (survivors[w] >> b & 1) struck |= mask[(int64_t(w) * kWord + b) * kWords + later];
      }
      if (struck) atomicOr(&removed[later], static_cast<unsigned long long>(struck));
    }
    __syncthreads();
  }

  if (t == 0) {
    int64_t next = counts[0];
    for (int w = 0; w < words; ++w) {
      starts[w] = next;
      next += __popcll(survivors[w]);
    }
    counts[1] = minimum(next, max_output);
  }
  __syncthreads();
  for (int64_t r = begin + t; r < end; r += kThreads) {
    const int w = int(r - begin) / kWord, b = int(r - begin) % kWord;
    if (!(survivors[w] >> b & 1)) continue;
    const int64_t position = starts[w] + __popcll(survivors[w] & ((uint64_t(1) << b) - 1));
    if (position < max_output) kept[position] = r, out[position] = order[r];
  }
}

// Ranks [begin, N) against the boxes kept[counts[0] .. counts[1])
template <Metric metric, class T>
__global__ void __launch_bounds__(kThreads)
    retire(Ranked<T> ranked, int64_t begin, T threshold, const int64_t* counts, const int64_t* kept) {
  FV_SHARED(Box<T>, tile, [kThreads]);
  FV_SHARED(int64_t, tile_classes, [kThreads]);
  const int t = threadIdx.x;
  const int64_t r = begin + int64_t(blockIdx.x) * kThreads + t;
  bool alive = r < ranked.count && !ranked.dead[r];
  const Box<T> box = r < ranked.count ? ranked.boxes[r] : Box<T>{0, 0, 0, 0};
  for (int64_t base = counts[0]; base < counts[1]; base += kThreads) {
    const int tiles = int(minimum(counts[1] - base, int64_t(kThreads)));
    if (t < tiles) {
      tile[t] = ranked.boxes[kept[base + t]];
      tile_classes[t] = ranked.classes ? ranked.classes[kept[base + t]] : 0;
    }
    __syncthreads();
    for (int b = 0; b < tiles && alive; ++b) {
      alive = !over<metric>(ranked, r, tile[b], box, tile_classes[b], threshold);
    }
    if (!__syncthreads_or(alive)) break;
  }
  if (r < ranked.count && !alive) ranked.dead[r] = 1;
}

template <Metric metric, class T>
void suppress(const Tensor& like, const Ranked<T>& ranked, const Params& params, const int64_t* order, int64_t* counts,
              int64_t* kept, int64_t* out) {
  const int64_t n = ranked.count, rows = minimum(n, kChunk);
  const Tensor mask = torch::stable::new_empty(like, {rows * kWords}, ScalarType::Long);
  uint64_t* words = reinterpret_cast<uint64_t*>(mask.mutable_data_ptr<int64_t>());
  const T threshold = T(params.threshold);
  for (int64_t begin = 0, c = 0; begin < n; begin += kChunk, ++c) {
    const int64_t end = minimum(begin + kChunk, n);
    const unsigned tiles = blocks_for(end - begin, kWord);
    launch(kOp, &overlaps<metric, T>, {dim3(tiles, tiles), kWord}, like, ranked, begin, end, threshold, words);
    launch(kOp, &resolve<T>, {1, kThreads}, like, ranked, begin, end, words, order, params.max_output, counts + c, kept,
           out);
    launch(kOp, &retire<metric, T>, {blocks_for(n - end, kThreads), kThreads}, like, ranked, end, threshold, counts + c,
           kept);
  }
}

// Indices by descending score, on the device.
template <class S>
Tensor rank(const Tensor& scores) {
  const int64_t n = scores.numel();
  Tensor keys = torch::stable::new_empty(scores, {n}, ScalarType::Long);
  launch(kOp, &make_keys<S>, {blocks_for(n, kThreads), kThreads}, scores, scores.const_data_ptr<S>(), n,
         keys.mutable_data_ptr<int64_t>());
  return stable_argsort(keys);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs, double iou_threshold,
           std::optional<int64_t> max_output, std::optional<double> score_threshold, std::string metric) {
  const Params params = validate(boxes, scores, idxs, iou_threshold, max_output, score_threshold, metric);
  const int64_t n = boxes.size(0);
  Tensor out = torch::stable::new_empty(boxes, {n}, ScalarType::Long);
  if (n == 0) return out;

  const ScalarType box_type = geometry_type(boxes.scalar_type()), score_type = geometry_type(scores.scalar_type());
  const Tensor plain = contiguous_as(boxes, box_type), plain_scores = contiguous_as(scores, score_type);
  std::optional<Tensor> classes;
  if (idxs) classes = contiguous_as(*idxs, ScalarType::Long);
  const Tensor ranked_boxes = torch::stable::new_empty(plain, {n, 4}),
               dead = torch::stable::new_empty(boxes, {n}, ScalarType::Byte);
  const Tensor ranked_classes = torch::stable::new_empty(boxes, {classes ? n : 0}, ScalarType::Long);
  const Tensor kept = torch::stable::new_empty(boxes, {n}, ScalarType::Long);
  Tensor counts = torch::stable::new_empty(boxes, {ceil_div(n, kChunk) + 1}, ScalarType::Long);
  torch::stable::zero_(counts);
  int64_t* count = counts.mutable_data_ptr<int64_t>();

  dispatch_geometry(score_type, [&](auto s) {
    using S = typename decltype(s)::type;
    const S least = S(params.score_threshold.value_or(0));
    const Tensor order = rank<S>(plain_scores);
    dispatch_geometry(box_type, [&](auto t) {
      using T = typename decltype(t)::type;
      const Ranked<T> ranked{reinterpret_cast<Box<T>*>(ranked_boxes.mutable_data_ptr<T>()),
                             classes ? ranked_classes.mutable_data_ptr<int64_t>() : nullptr,
                             dead.mutable_data_ptr<uint8_t>(), n};
      launch(kOp, &gather<T, S>, {blocks_for(n, kThreads), kThreads}, boxes, plain.const_data_ptr<T>(),
             classes ? classes->const_data_ptr<int64_t>() : nullptr, plain_scores.const_data_ptr<S>(),
             order.const_data_ptr<int64_t>(), params.score_threshold.has_value(), least, ranked);
      dispatch_metric(params.metric, [&](auto m) {
        suppress<decltype(m)::value>(boxes, ranked, params, order.const_data_ptr<int64_t>(), count,
                                     kept.mutable_data_ptr<int64_t>(), out.mutable_data_ptr<int64_t>());
      });
    });
  });
  const int64_t total = read_back(kOp, boxes, count + ceil_div(n, kChunk));
  return torch::stable::narrow(out, 0, 0, total);
}

}  // namespace
}  // namespace fastvision::nms

FV_CUDA_LIBRARY(m) { m.impl("nms", TORCH_BOX(&fastvision::nms::nms)); }
