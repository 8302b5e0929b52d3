// match_boxes on CUDA: one thread an anchor, ground truths through shared memory. For the low-quality rule a first
// kernel also finds the largest overlap of every ground truth (an atomic maximum, so the order does not matter), and a
// second compares with it.
#include "boxes/match_boxes.h"
#include "common/boxes_of.h"
#include "common/cuda_library.cuh"
#include "common/dispatch.h"

namespace fastvision::match_boxes {
namespace {

constexpr int kThreads = 256;

// Overlaps are never negative, and the bits of such numbers order as integers do.
FV_DEVICE void atomic_largest(float* address, float value) {
  atomicMax(reinterpret_cast<int*>(address), __float_as_int(value));
}
FV_DEVICE void atomic_largest(double* address, double value) {
  atomicMax(reinterpret_cast<long long*>(address), __double_as_longlong(value));
}

template <class T>
struct Problem {
  const Box<T>* gts;
  int64_t gt_count;
  const Box<T>* anchors;
  int64_t anchor_count;
  Params<T> params;
  T* highest;           // [G], zeros before
  int64_t* best_index;  // [A], for the low-quality rule only: ground truth of the largest overlap, the first of equals
  int64_t* matches;     // [A]
};

// visit(g, overlap) for every ground truth, by all threads of the block together; NaN overlaps count as none.
template <class T, class Visit>
FV_DEVICE void for_each_gt(const Problem<T>& p, const Box<T>& anchor, const Visit& visit) {
  FV_SHARED(Box<T>, tile, [kThreads]);
  const T area = box_area(anchor);
  for (int64_t base = 0; base < p.gt_count; base += kThreads) {
    const int count = int(minimum(p.gt_count - base, int64_t(kThreads)));
    __syncthreads();
    if (int(threadIdx.x) < count) tile[threadIdx.x] = p.gts[base + threadIdx.x];
    __syncthreads();
    for (int g = 0; g < count; ++g) visit(base + g, iou(tile[g], anchor, box_area(tile[g]), area));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) first_pass(Problem<T> p) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = i < p.anchor_count;
  const Box<T> anchor = inside ? p.anchors[i] : Box<T>{0, 0, 0, 0};
  T best = -1;  // so that the first overlap that is a number counts, 0 included
  int64_t index = 0;
  for_each_gt(p, anchor, [&](int64_t g, T value) {
    if (value > best) best = value, index = g;
    if (p.params.low_quality && inside && value > 0) {
      // most anchors are far below what is already known: read before locking the address
      if (value > *static_cast<volatile T*>(p.highest + g)) atomic_largest(p.highest + g, value);
    }
  });
  if (!inside) return;
  p.matches[i] = verdict(p.params, maximum(best, T(0)), index);
  if (p.params.low_quality) p.best_index[i] = index;
}

template <class T>
__global__ void __launch_bounds__(kThreads) second_pass(Problem<T> p) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = i < p.anchor_count;
  bool reaches = false;
  for_each_gt(p, inside ? p.anchors[i] : Box<T>{0, 0, 0, 0},
              [&](int64_t g, T value) { reaches = reaches || value == p.highest[g]; });
  if (inside && reaches) p.matches[i] = p.best_index[i];
}

template <class T>
__global__ void fill(T* data, int64_t count, T value) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) data[i] = value;
}

Tensor match_boxes(const Tensor& gt_boxes, const Tensor& anchors, double high_threshold, double low_threshold,
                   bool allow_low_quality_matches) {
  validate(gt_boxes, anchors, high_threshold, low_threshold);
  const ScalarType type = geometry_type(gt_boxes, anchors);
  const Tensor g = contiguous_as(gt_boxes, type), a = contiguous_as(anchors, type);
  const int64_t count = a.size(0);
  Tensor matches = empty_vector(a, count, ScalarType::Long);
  int64_t* out = matches.mutable_data_ptr<int64_t>();
  const LaunchShape shape{blocks_for(count, kThreads), kThreads};
  if (g.size(0) == 0) {
    launch(kOp, &fill<int64_t>, shape, a, out, count, kBackground);
    return matches;
  }
  const Tensor best_index = empty_vector(a, allow_low_quality_matches ? count : 0, ScalarType::Long);
  Tensor highest = empty_vector(g, g.size(0), type);
  clear_tensor(highest);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    const Params<T> params{T(high_threshold), T(low_threshold), allow_low_quality_matches};
    const Problem<T> problem{boxes_of<T>(g),
                             g.size(0),
                             boxes_of<T>(a),
                             count,
                             params,
                             highest.mutable_data_ptr<T>(),
                             best_index.mutable_data_ptr<int64_t>(),
                             out};
    launch(kOp, &first_pass<T>, shape, a, problem);
    if (allow_low_quality_matches) launch(kOp, &second_pass<T>, shape, a, problem);
  });
  return matches;
}

}  // namespace
}  // namespace fastvision::match_boxes

FV_CUDA_LIBRARY(m) { m.impl("match_boxes", TORCH_BOX(&fastvision::match_boxes::match_boxes)); }
