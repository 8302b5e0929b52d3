// soft_nms on CUDA: one block a class. The boxes are sorted by class; the block of the first box of each class selects,
// the others have nothing to do.
#include "common/cuda_library.cuh"
#include "common/dispatch.h"
#include "common/rank_cuda.cuh"
#include "nms/soft_nms.h"

namespace fastvision::soft_nms {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Problem {
  const T* boxes;          // [N, 4]
  const int64_t* classes;  // [N], or null
  const int64_t* members;  // [N] indices, those of a class together and ascending, or null: 0, 1, 2, ...
  int64_t count;           // N
  T* scores;               // [N] falling
  T* final;                // [N] when selected, NaN otherwise
  int* selected;           // how many have been, in all classes
  T threshold, sigma, least;

  FV_DEVICE int64_t member(int64_t p) const { return members ? members[p] : p; }
  FV_DEVICE Box<T> box(int64_t i) const { return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]}; }
};

template <class T>
__global__ void reset(Problem<T> p, const T* scores) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.count) return;
  p.scores[i] = scores[i], p.final[i] = T(NAN);
  if (i == 0) *p.selected = 0;
}

// The block of position blockIdx.x, if a class begins there.
template <Method method, class T>
__global__ void __launch_bounds__(kThreads) soften(Problem<T> p) {
  FV_SHARED(T, best_score, [kThreads]);
  FV_SHARED(int64_t, best_position, [kThreads]);
  FV_SHARED(int64_t, end);
  const int t = threadIdx.x;
  const int64_t begin = blockIdx.x;
  const auto class_of = [&](int64_t position) { return p.classes ? p.classes[p.member(position)] : int64_t(0); };
  if (begin > 0 && class_of(begin - 1) == class_of(begin)) return;
  if (t == 0) {  // the first position of another class
    int64_t low = begin + 1, high = p.count;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (class_of(middle) == class_of(begin)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    end = low;
  }
  __syncthreads();

  Box<T> selected{0, 0, 0, 0};
  bool any = false;
  for (int64_t round = begin; round <= end; ++round) {
    // decay, and this thread's best: positions ascend, so the first of equals
    T most = p.least;
    int64_t where = -1;
    for (int64_t position = begin + t; position < end; position += kThreads) {
      const int64_t i = p.member(position);
      T score = p.scores[i];
      if (!(score > p.least)) continue;
      if (any) {
        const Box<T> box = p.box(i);
        score *= decay<method>(iou(selected, box, box_area(selected), box_area(box)), p.threshold, p.sigma);
        p.scores[i] = score;
      }
      if (score > most) most = score, where = position;
    }
    best_score[t] = most, best_position[t] = where;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
      if (t < half && best_position[t + half] >= 0) {
        const bool better = best_position[t] < 0 || best_score[t + half] > best_score[t] ||
                            (best_score[t + half] == best_score[t] && best_position[t + half] < best_position[t]);
        if (better) best_score[t] = best_score[t + half], best_position[t] = best_position[t + half];
      }
      __syncthreads();
    }
    const int64_t winner = best_position[0];
    const T value = best_score[0];
    __syncthreads();
    if (winner < 0) break;
    const int64_t i = p.member(winner);
    selected = p.box(i), any = true;
    if ((winner - begin) % kThreads == t) {  // whose position it is
      p.final[i] = value;
      p.scores[i] = p.least;  // not above the threshold any more
      atomicAdd(p.selected, 1);
    }
  }
}

template <class T>
__global__ void take(const T* final, const int64_t* order, int64_t kept, T* rescored) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (r < kept) rescored[r] = final[order[r]];
}

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs,
                                    double iou_threshold, double sigma, double score_threshold, std::string method) {
  const Params params = validate(boxes, scores, idxs, iou_threshold, sigma, score_threshold, method);
  const ScalarType type = geometry_type(boxes, scores);
  const Tensor plain = contiguous_as(boxes, type), plain_scores = contiguous_as(scores, type);
  const int64_t n = boxes.size(0);
  if (n == 0) {
    return {empty_vector(boxes, 0, ScalarType::Long), empty_vector(scores, 0)};
  }
  std::optional<Tensor> classes, members;
  if (idxs) classes = contiguous_as(*idxs, ScalarType::Long), members = stable_argsort(*classes);
  Tensor falling = empty_vector(plain, n), final = empty_vector(plain, n);
  Tensor selected = empty_vector(plain, 1, ScalarType::Int);
  return dispatch_geometry(type, [&](auto t) -> std::tuple<Tensor, Tensor> {
    using T = typename decltype(t)::type;
    const Problem<T> problem{plain.const_data_ptr<T>(),
                             classes ? classes->const_data_ptr<int64_t>() : nullptr,
                             members ? members->const_data_ptr<int64_t>() : nullptr,
                             n,
                             falling.mutable_data_ptr<T>(),
                             final.mutable_data_ptr<T>(),
                             selected.mutable_data_ptr<int>(),
                             T(params.threshold),
                             T(params.sigma),
                             T(params.score_threshold)};
    launch(kOp, &reset<T>, {blocks_for(n, kThreads), kThreads}, boxes, problem, plain_scores.const_data_ptr<T>());
    dispatch_method(params.method, [&](auto m) {
      launch(kOp, &soften<decltype(m)::value, T>, {classes ? blocks_for(n, 1) : 1, kThreads}, boxes, problem);
    });
    const Tensor order = rank(kOp, final, 1, n);  // NaN last
    const int64_t kept = read_back(kOp, boxes, problem.selected);
    Tensor rescored = empty_vector(plain, kept);
    launch(kOp, &take<T>, {blocks_for(kept, kThreads), kThreads}, boxes, problem.final, order.const_data_ptr<int64_t>(),
           kept, rescored.mutable_data_ptr<T>());
    Tensor flat = torch::stable::view(order, {n});
    return {torch::stable::narrow(flat, 0, 0, kept), as_type(rescored, scores.scalar_type())};
  });
}

}  // namespace
}  // namespace fastvision::soft_nms

FV_CUDA_LIBRARY(m) { m.impl("soft_nms", TORCH_BOX(&fastvision::soft_nms::soft_nms)); }
