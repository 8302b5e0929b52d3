// gram_matrix and style_loss on the CPU.
#include <torch/csrc/stable/library.h>

#include <numeric>

#include "style/gram_matrix_cpu.h"

namespace fastvision::gram_matrix {
namespace {

// [B, C, C] in the type of the sums
template <class T, class S>
void gram_of(const Params& p, const Tensor& features, double scale, T* out) {
  if (p.batch * p.channels == 0) return;
  if constexpr (std::is_same_v<S, BFloat16>) {
    if (gemm::multiplies_pairs() && (p.channels_last || p.pixels % 2 == 0)) {
      return multiply_transposed<T, gemm::BFloat16Pair>(p, features.const_data_ptr<S>(), T(scale), out);
    }
  }
  multiply_transposed<T, T>(p, features.const_data_ptr<S>(), T(scale), out);
}

Tensor gram_matrix(const Tensor& features, int64_t divisor) {
  const double scale = scale_of(divisor);
  constexpr const char* kOp = "gram_matrix";
  const Tensor f = dense(features);
  const Params p = make_params(kOp, f);
  const Tensor sums = empty_tensor(f, {p.batch, p.channels, p.channels}, geometry_type(features.scalar_type()));
  dispatch_floating(kOp, features.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    gram_of<Accumulator<S>, S>(p, f, scale, sums.mutable_data_ptr<Accumulator<S>>());
  });
  return as_type(sums, features.scalar_type());
}

// scale * (grad + grad^T) features; grad [B, C, C]
template <class G>
Tensor to_features(const char* op, const Params& p, const G* grad, const Tensor& features, double scale) {
  Tensor out =
      empty_map(features, features.size(0), features.size(1), features.size(2), features.size(3), p.channels_last);
  if (out.numel() == 0) return out;
  dispatch_floating(op, features.scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    multiply_symmetric<T>(p, grad, features.const_data_ptr<S>(), T(scale), out.mutable_data_ptr<S>());
  });
  return out;
}

Tensor gram_matrix_backward(const Tensor& grad, const Tensor& features, int64_t divisor) {
  constexpr const char* kOp = "gram_matrix_backward";
  const Tensor f = dense(features);
  const Params p = check_backward(kOp, grad, f);
  const ScalarType type = geometry_type(features.scalar_type());
  const Tensor g = contiguous_as(grad, type);
  Tensor out;
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    out = to_features(kOp, p, g.const_data_ptr<T>(), f, scale_of(divisor));
  });
  return out;
}

// difference [rows, columns] -= target [target_rows, columns], again from its first row after the last; returns the sum
// of squares. In double, the loss being one number of many, and row by row, whatever the number of threads.
template <class T>
double subtract(const T* target, int64_t target_rows, int64_t rows, int64_t columns, T* difference) {
  constexpr int64_t kLanes = 8, kGrain = 1 << 14;
  Buffer<double> squares(static_cast<size_t>(rows));
  parallel_for(rows, ceil_div(kGrain, columns + 1), [&](int64_t begin, int64_t end) {
    vectorized([&]() __attribute__((always_inline)) {
      for (int64_t r = begin; r < end; ++r) {
        const T* __restrict wanted = target + r % target_rows * columns;
        T* __restrict row = difference + r * columns;
        double sums[kLanes] = {};
        int64_t i = 0;
        for (; i + kLanes <= columns; i += kLanes) {
          for (int64_t l = 0; l < kLanes; ++l) {
            row[i + l] -= wanted[i + l];
            sums[l] += double(row[i + l]) * double(row[i + l]);
          }
        }
        for (; i < columns; ++i) {
          row[i] -= wanted[i];
          sums[0] += double(row[i]) * double(row[i]);
        }
        squares[size_t(r)] = std::accumulate(sums, sums + kLanes, 0.0);
      }
    });
  });
  return std::accumulate(squares.data(), squares.data() + rows, 0.0);
}

// The differences of all layers, one after the other, and the loss.
std::tuple<Tensor, Tensor> style_loss(std::vector<Tensor> features, std::vector<Tensor> targets,
                                      std::vector<double> weights, std::vector<int64_t> divisors) {
  constexpr const char* kOp = "style_loss";
  const std::vector<Params> params = check_layers(kOp, features, targets, weights, divisors);
  const ScalarType type = loss_type(features);
  int64_t size = 0;
  for (const Params& p : params) size += p.batch * p.channels * p.channels;
  const Tensor differences = empty_vector(features[0], size, type);
  const Tensor loss = empty_tensor(features[0], {}, type);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    T* difference = differences.mutable_data_ptr<T>();
    double total = 0;
    for (size_t l = 0; l < features.size(); ++l) {
      const Tensor f = dense(features[l]);
      const Params& p = params[l];
      dispatch_floating(kOp, f.scalar_type(), [&](auto s) {
        using S = typename decltype(s)::type;
        if constexpr (std::is_same_v<Accumulator<S>, T>) {
          gram_of<T, S>(p, f, scale_of(divisors[l]), difference);
        } else {
          const Tensor wide = contiguous_as(f, type);
          gram_of<T, T>(make_params(kOp, wide), wide, scale_of(divisors[l]), difference);
        }
      });
      const Tensor target = contiguous_as(targets[l], type);
      const int64_t wanted_rows = target.dim() == 2 ? p.channels : p.batch * p.channels;
      const double sum =
          subtract(target.const_data_ptr<T>(), wanted_rows, p.batch * p.channels, p.channels, difference);
      if (p.batch > 0) total += weights[l] * sum / double(p.batch);
      difference += p.batch * p.channels * p.channels;
    }
    *loss.mutable_data_ptr<T>() = T(total);
  });
  return {loss, differences};
}

std::vector<Tensor> style_loss_backward(std::optional<Tensor> grad, const Tensor& differences,
                                        std::vector<Tensor> features, std::vector<double> weights,
                                        std::vector<int64_t> divisors, std::vector<int64_t> layers) {
  return gradients_of_layers(
      grad, differences, features, weights, divisors, layers, [](const char* op, const auto& flows) {
        std::vector<Tensor> out;
        for (const auto& [p, f, difference, above, scale] : flows) {
          out.push_back(to_features(op, p, difference, f, above ? double(*above) * scale : scale));
        }
        return out;
      });
}

void style_loss_scale_(std::vector<Tensor> gradients, const Tensor& factor) {
  constexpr int64_t kGrain = 1 << 15;
  dispatch_geometry(check_scaled("style_loss_scale_", gradients, factor), [&](auto t) {
    using T = typename decltype(t)::type;
    const T by = *factor.const_data_ptr<T>();
    if (by == T(1)) return;
    for (const Tensor& gradient : gradients) {
      T* numbers = gradient.mutable_data_ptr<T>();
      parallel_for(gradient.numel(), kGrain, [&](int64_t begin, int64_t end) {
        vectorized([&]() __attribute__((always_inline)) {
          for (int64_t i = begin; i < end; ++i) numbers[i] *= by;
        });
      });
    }
  });
}

}  // namespace
}  // namespace fastvision::gram_matrix

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("gram_matrix", TORCH_BOX(&fastvision::gram_matrix::gram_matrix));
  m.impl("gram_matrix_backward", TORCH_BOX(&fastvision::gram_matrix::gram_matrix_backward));
  m.impl("style_loss", TORCH_BOX(&fastvision::gram_matrix::style_loss));
  m.impl("style_loss_backward", TORCH_BOX(&fastvision::gram_matrix::style_loss_backward));
  m.impl("style_loss_scale_", TORCH_BOX(&fastvision::gram_matrix::style_loss_scale_));
}
