// mask_logits on CUDA: a block has the pixels of a tile for all hidden units, so that the sum over units stays in it.
//
// The weight of one channel is [hidden, 2, 2], contiguous: a thread has four pixels and the four positions of one
// hidden unit at a time. Units are added in the order of a thread's own, then over the threads of a row.
#include "common/cuda_library.cuh"
#include "masks/mask_logits.h"

namespace fastvision::mask_logits {
namespace {

constexpr int kTile = 64;      // pixels of a block, over all rois
constexpr int kPixels = 4;     // of a thread
constexpr int kUnits = 16;     // hidden units at a time, one a thread
constexpr int kChannels = 16;  // of a step
constexpr int kThreads = kTile / kPixels * kUnits;
constexpr int kRow = kTile + 4;  // one row of pixels in shared memory, for fewer bank conflicts
constexpr int kNone = -1;

template <class T>
struct Args {
  Params p;
  Layers<T> layers;
  Strides step;  // of the features
};

// features [R, C, H, W] of any strides; out [R, 2H, 2W]
template <class T, class S>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 2 : 3)
    compute(const __grid_constant__ Args<T> args, const S* __restrict__ features, S* __restrict__ out) {
  FV_SHARED(T, pixels, [kChannels][kRow]);
  FV_SHARED(T, weights, [kChannels][kUnits * kPhases]);
  FV_SHARED(T, partial, [kTile][kUnits + 1]);
  FV_SHARED(int64_t, offset, [kTile]);  // of a pixel of the tile in the features, kNone past the last
  FV_SHARED(int64_t, label, [kTile]);   // of its roi, kNone for a class that does not exist
  const Params& p = args.p;
  const Layers<T>& layers = args.layers;
  const int t = threadIdx.x, unit = t % kUnits, row = t / kUnits * kPixels;
  const int64_t tile = int64_t(blockIdx.x) * kTile;
  if (t < kTile) {
    const int64_t k = tile + t, r = k / p.pixels(), pixel = k % p.pixels();
    const bool any = r < p.rois;
    offset[t] = any ? r * args.step.n + pixel / p.width * args.step.h + pixel % p.width * args.step.w : int64_t(kNone);
    const int64_t l = any ? layers.labels[r] : int64_t(kNone);
    label[t] = l >= 0 && l < p.classes ? l : int64_t(kNone);
  }
  __syncthreads();
  const bool channels_last = args.step.c == 1;  // neighbouring threads read neighbouring numbers in either format
  T sums[kPixels][kPhases] = {};
  for (int64_t first = 0; first < p.hidden; first += kUnits) {
    T hidden[kPixels][kPhases] = {};
    for (int64_t c0 = 0; c0 < p.channels; c0 += kChannels) {
      for (int e = t; e < kTile * kChannels; e += kThreads) {
        const int i = channels_last ? e / kChannels : e % kTile, c = channels_last ? e % kChannels : e / kTile;
        const bool any = offset[i] != kNone && c0 + c < p.channels;
        pixels[c][i] = any ? static_cast<T>(features[offset[i] + (c0 + c) * args.step.c]) : T(0);
      }
      for (int e = t; e < kChannels * kUnits * kPhases; e += kThreads) {
        const int c = e / (kUnits * kPhases), u = e % (kUnits * kPhases);
        const bool any = c0 + c < p.channels && first * kPhases + u < p.hidden * kPhases;
        weights[c][u] = any ? layers.weight[((c0 + c) * p.hidden + first) * kPhases + u] : T(0);
      }
      __syncthreads();
      for (int c = 0; c < kChannels; ++c) {
        for (int i = 0; i < kPixels; ++i) {
          for (int phase = 0; phase < kPhases; ++phase) {
            hidden[i][phase] += pixels[c][row + i] * weights[c][unit * kPhases + phase];
          }
        }
      }
      __syncthreads();
    }
    const int64_t o = first + unit;
    for (int i = 0; i < kPixels && o < p.hidden; ++i) {
      if (label[row + i] == kNone) continue;
      const T share = layers.class_weight[label[row + i] * p.hidden + o];
      for (int phase = 0; phase < kPhases; ++phase) {
        sums[i][phase] += share * relu(hidden[i][phase] + layers.bias[o]);
      }
    }
  }
  for (int phase = 0; phase < kPhases; ++phase) {
    for (int i = 0; i < kPixels; ++i) partial[row + i][unit] = sums[i][phase];
    __syncthreads();
    if (t < kTile && offset[t] != kNone) {
      T sum = label[t] == kNone ? T(0) : layers.class_bias[label[t]];
      for (int u = 0; u < kUnits; ++u) sum += partial[t][u];
      const int64_t k = tile + t, pixel = k % p.pixels();
      out[p.place(k / p.pixels(), pixel / p.width, pixel % p.width, phase)] = static_cast<S>(sum);
    }
    __syncthreads();
  }
}

Tensor mask_logits(const Tensor& features, const Tensor& weight, const Tensor& bias, const Tensor& class_weight,
                   const Tensor& class_bias, const Tensor& labels) {
  const Inputs in{weight, bias, class_weight, class_bias, labels};
  const Params p = make_params(features, in);
  Tensor out = empty_output(p, features);
  if (out.numel() == 0) return out;
  const Inputs plain = contiguous_inputs(in, geometry_type(features.scalar_type()));
  dispatch_floating(kOp, features.scalar_type(), [&](auto s) {
    using S = typename decltype(s)::type;
    using T = Accumulator<S>;
    launch(kOp, &compute<T, S>, {blocks_for(p.rois * p.pixels(), kTile), kThreads}, features,
           Args<T>{p, plain.layers<T>(), strides_of(features)}, features.const_data_ptr<S>(),
           out.mutable_data_ptr<S>());
  });
  return out;
}

}  // namespace
}  // namespace fastvision::mask_logits

FV_CUDA_LIBRARY(m) { m.impl("mask_logits", TORCH_BOX(&fastvision::mask_logits::mask_logits)); }
