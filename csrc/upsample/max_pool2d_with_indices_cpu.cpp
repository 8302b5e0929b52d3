// max_pool2d_with_indices on the CPU: a row of outputs is compared with one tap of all its windows, or two neighbours,
// after the other.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "common/memory.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "upsample/max_pool2d_with_indices.h"

namespace fastvision::max_pool2d_with_indices {
namespace {

// A row of outputs: the largest of each window so far, and its place in the plane.
template <class T>
struct Row {
  T* best;
  int32_t* places;
};

// NaN is larger than any number, and the last of several counts, of equal numbers the first: as in torch.
template <class T>
[[gnu::always_inline]] inline void take_larger(T value, int32_t place, T& best, int32_t& best_place) {
  const bool larger = (value > best) | (value != value);
  best = larger ? value : best;
  best_place = larger ? place : best_place;
}

// kStride: 0 for any. kTaps: neighbours that are compared at once. A strided load of one tap leaves gaps, and compilers
// then do the last vector number by number; as many taps as the stride leave none.
template <class T, int kStride, int kTaps>
[[gnu::always_inline]] inline void compare(const T* __restrict values, int64_t stride, int32_t place, int64_t count,
                                           const Row<T>& row) {
  T* __restrict best = row.best;
  int32_t* __restrict places = row.places;
  const int64_t step = kStride > 0 ? kStride : stride;
  for (int64_t x = 0; x < count; ++x) {
    for (int j = 0; j < kTaps; ++j) {
      take_larger(values[x * step + j], place + int32_t(x * step) + j, best[x], places[x]);
    }
  }
}

template <class T>
[[gnu::always_inline]] inline void pool_row(const Params& p, const T* plane, int64_t y, int64_t count, int64_t* indices,
                                            const Row<T>& row) {
  const int64_t top = y * p.y.stride * p.x.in;
  for (int64_t x = 0; x < count; ++x) row.best[x] = -std::numeric_limits<T>::infinity();
  for (int64_t x = 0; x < count; ++x) row.places[x] = int32_t(top + x * p.x.stride);
  const bool pairs = p.x.stride == 2 && p.x.dilation == 1 && p.x.kernel > 1;
  for (int64_t i = 0; i < p.y.kernel; ++i) {
    const int64_t line = top + i * p.y.dilation * p.x.in;
    for (int64_t j = 0; j < p.x.kernel; j += pairs ? 2 : 1) {
      // an odd last one with the one before, which changes nothing
      const int64_t first = line + (pairs ? std::min(j, p.x.kernel - 2) : j * p.x.dilation);
      if (pairs) {
        compare<T, 2, 2>(plane + first, 2, int32_t(first), count, row);
      } else if (p.x.stride == 2) {
        compare<T, 2, 1>(plane + first, 2, int32_t(first), count, row);
      } else if (p.x.stride == 1) {
        compare<T, 1, 1>(plane + first, 1, int32_t(first), count, row);
      } else {
        compare<T, 0, 1>(plane + first, p.x.stride, int32_t(first), count, row);
      }
    }
  }
  for (int64_t x = 0; x < count; ++x) indices[x] = row.places[x];
}

std::tuple<Tensor, Tensor> forward(const Tensor& input, std::vector<int64_t> geometry) {
  constexpr const char* kOp = "max_pool2d_with_indices";
  const Params p = make_params(kOp, input, geometry);
  const Tensor source = torch::stable::contiguous(input);
  const int64_t height = p.y.out(), width = p.x.out();
  Tensor output = empty_map(input, p.batch, p.channels, height, width, false);
  Tensor indices = empty_map(input, p.batch, p.channels, height, width, false, ScalarType::Long);
  if (output.numel() == 0) return {output, indices};
  const auto pool = [&](auto t) {
    using T = typename decltype(t)::type;
    const T* from = source.const_data_ptr<T>();
    T* to = output.mutable_data_ptr<T>();
    int64_t* at = indices.mutable_data_ptr<int64_t>();
    constexpr int64_t kGrain = 1 << 14;  // comparisons that are worth a thread
    // rows are computed in whole vectors, and those after them overwrite what is too much: in a rest of single numbers
    // a branch a number would be guessed
    const int64_t more = whole_vectors<T>(width), size = source.numel();
    const int64_t whole = p.y.in * p.x.in + more * p.x.stride <= INT32_MAX ? more : width;  // places are 32 bits
    const int64_t grain = std::max<int64_t>(1, kGrain / (whole * p.y.kernel * p.x.kernel));
    const int64_t reach = (p.y.reach() - 1) * p.x.in + p.x.reach() + (whole - 1) * p.x.stride;
    parallel_for(p.batch * p.channels * height, grain, [&](int64_t begin, int64_t end) {
      const Buffer<int32_t> places{size_t(whole)};
      vectorized([&]() __attribute__((always_inline)) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t plane = i / height * p.y.in * p.x.in, y = i % height;
          const bool inside = plane + y * p.y.stride * p.x.in + reach <= size && i * width + whole <= end * width;
          pool_row(p, from + plane, y, inside ? whole : width, at + i * width, Row<T>{to + i * width, places.data()});
        }
      });
    });
  };
  switch (input.scalar_type()) {
    case ScalarType::Float: pool(Type<float>{}); break;
    case ScalarType::Double: pool(Type<double>{}); break;
    default: fail<std::invalid_argument>(kOp, "expected an input of dtype float32 or float64");
  }
  return {output, indices};
}

}  // namespace
}  // namespace fastvision::max_pool2d_with_indices

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("max_pool2d_with_indices", TORCH_BOX(&fastvision::max_pool2d_with_indices::forward));
}
