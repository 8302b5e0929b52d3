// instance_norm on CUDA. A block of threads takes a chunk of a group of planes: pixels side by side where there is one
// plane, channels side by side where they are interleaved, so that neighbouring threads read neighbouring values. The
// moments of the chunks are merged by one warp a plane, always in the same order.
#include "common/check_mode.h"
#include "common/cuda_library.cuh"
#include "style/chunks.cuh"
#include "style/instance_norm.h"

namespace fastvision::instance_norm {
namespace {

using style::ChunkThread;
using style::GroupedMap;
using style::Groups;
using style::kThreads;

template <class T>
struct Args {
  Groups groups;
  Affine<T> affine;
  T slope;
};

// partial: [groups, chunks, 2, channels], means and sums of squared deviations
template <class T, class S>
__global__ void __launch_bounds__(kThreads) measure(const Groups groups, GroupedMap<const S> map, double* partial) {
  FV_SHARED(double, sums, [kThreads]);
  const ChunkThread thread(groups);
  const S* chunk = map[thread.group] + thread.first;
  const double count = double(groups.pixels_of(thread.chunk));
  T sum = 0;
  thread.for_each_value(groups, [&](int64_t at) { sum += static_cast<T>(chunk[at]); });
  const T about = T(style::block_sum(thread, double(sum), sums) / count);
  T deviations = 0, squares = 0;
  thread.for_each_value(groups, [&](int64_t at) {
    const T deviation = static_cast<T>(chunk[at]) - about;
    deviations += deviation, squares += deviation * deviation;
  });
  const double all_deviations = style::block_sum(thread, double(deviations), sums);
  const double all_squares = style::block_sum(thread, double(squares), sums);
  if (thread.slot != 0 || thread.channel >= groups.channels) return;
  const Moments moments = moments_about(double(about), all_deviations, all_squares, count);
  style::store_pair(groups, thread, partial, moments.mean, moments.squares);
}

// mean, rstd [N, C], one warp a plane
__global__ void __launch_bounds__(kThreads)
    merge(const Groups groups, const double* partial, double eps, double* mean, double* rstd) {
  const style::PlaneThread thread(groups);
  Moments moments{0, 0};
  double count = 0;
  const auto add = [&](const Moments& more, double pixels) {
    moments = count == 0 ? more : merged(moments, count, more, pixels);
    count += pixels;
  };
  for (int64_t chunk = thread.first(groups); chunk < groups.chunks; chunk += kWarp) {
    const double* pair = style::pair_of(groups, partial, thread.plane, chunk);
    add({pair[0], pair[groups.channels]}, double(groups.pixels_of(chunk)));
  }
  for (int half = kWarp / 2; half > 0; half /= 2) {
    const Moments more{style::from_later_lane(moments.mean, half), style::from_later_lane(moments.squares, half)};
    const double pixels = style::from_later_lane(count, half);
    if (pixels > 0) add(more, pixels);
  }
  if (!thread.any || thread.lane > 0) return;
  mean[thread.plane] = moments.mean, rstd[thread.plane] = rstd_of(moments, groups.pixels, eps);
}

// The plane of a thread and its line; row -1: its style does not exist.
template <class T>
struct PlaneOfThread {
  int64_t plane, row;
  Line<T> line;

  FV_DEVICE PlaneOfThread(const Args<T>& args, const ChunkThread& thread, const double* mean, const double* rstd) {
    plane = thread.group * args.groups.channels + thread.channel;
    row = args.affine.row(plane / args.affine.channels);
    if (row < 0) return;
    const int64_t channel = plane % args.affine.channels;
    line = line_of<T>(mean[plane], rstd[plane], args.affine.weight_at(row, channel), args.affine.bias_at(row, channel));
  }

  FV_DEVICE T at(T x) const { return line_at(x, line.mean, line.scale, line.shift); }
};

template <class T, class S>
__global__ void __launch_bounds__(kThreads) normalise(const __grid_constant__ Args<T> args, GroupedMap<const S> map,
                                                      const double* mean, const double* rstd, GroupedMap<S> out) {
  const ChunkThread thread(args.groups);
  if (thread.channel >= args.groups.channels) return;
  const PlaneOfThread<T> plane(args, thread, mean, rstd);
  const S* x = map[thread.group] + thread.first;
  S* y = out[thread.group] + thread.first;
  if (plane.row < 0) {
    thread.for_each_value(args.groups, [&](int64_t at) { y[at] = static_cast<S>(T(0)); });
    return;
  }
  thread.for_each_value(args.groups, [&](int64_t at) {
    const T z = plane.at(static_cast<T>(x[at]));
    y[at] = static_cast<S>(activated(z, z, args.slope));
  });
}

// partial: [groups, chunks, 2, channels], sums of g' and of g' (x - mean)
template <class T, class S>
__global__ void __launch_bounds__(kThreads)
    measure_gradient(const __grid_constant__ Args<T> args, GroupedMap<const S> map, GroupedMap<const S> grad,
                     const double* mean, const double* rstd, double* partial) {
  FV_SHARED(double, sums, [kThreads]);
  const ChunkThread thread(args.groups);
  T sum = 0, product = 0;
  if (thread.channel < args.groups.channels) {
    const PlaneOfThread<T> plane(args, thread, mean, rstd);
    const S *x = map[thread.group] + thread.first, *g = grad[thread.group] + thread.first;
    if (plane.row >= 0) {
      thread.for_each_value(args.groups, [&](int64_t at) {
        const T value = static_cast<T>(x[at]);
        const T flowing = activated(plane.at(value), static_cast<T>(g[at]), args.slope);
        sum += flowing, product += flowing * (value - plane.line.mean);
      });
    }
  }
  const double all = style::block_sum(thread, double(sum), sums);
  const double products = style::block_sum(thread, double(product), sums);
  if (thread.slot == 0 && thread.channel < args.groups.channels) {
    style::store_pair(args.groups, thread, partial, all, products);
  }
}

// totals [N, C], one warp a plane
template <class T>
__global__ void __launch_bounds__(kThreads) add_chunks(const Groups groups, const double* partial, const double* mean,
                                                       const double* rstd, GradientSums* totals) {
  const style::PlaneThread thread(groups);
  double sum = 0, product = 0;
  for (int64_t chunk = thread.first(groups); chunk < groups.chunks; chunk += kWarp) {
    const double* pair = style::pair_of(groups, partial, thread.plane, chunk);
    sum += pair[0], product += pair[groups.channels];
  }
  for (int half = kWarp / 2; half > 0; half /= 2) {
    sum += style::from_later_lane(sum, half), product += style::from_later_lane(product, half);
  }
  if (!thread.any || thread.lane > 0) return;
  const int64_t plane = thread.plane;
  totals[plane] = gradient_sums<T>(sum, product, mean[plane], rstd[plane]);
}

// Numbers of a floating type that is not the kernel's.
struct Stored {
  void* data = nullptr;
  ScalarType type = ScalarType::Float;

  FV_DEVICE void set(int64_t at, double value) const {
    switch (type) {
      case ScalarType::Double: static_cast<double*>(data)[at] = value; break;
      case ScalarType::Half: static_cast<Half*>(data)[at] = static_cast<Half>(float(value)); break;
      case ScalarType::BFloat16: static_cast<BFloat16*>(data)[at] = static_cast<BFloat16>(float(value)); break;
      default: static_cast<float*>(data)[at] = float(value);
    }
  }
};

// to_weight, to_bias [S, C], one thread a number, over images in order
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_images(const Affine<T> affine, int64_t images, const GradientSums* totals, Stored to_weight, Stored to_bias) {
  const int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= affine.styles * affine.channels) return;
  const int64_t row = at / affine.channels, channel = at % affine.channels;
  double grad = 0, product = 0;
  for (int64_t n = 0; n < images; ++n) {
    if (affine.row(n) != row) continue;
    const GradientSums& total = totals[n * affine.channels + channel];
    grad += total.grad, product += total.product;
  }
  if (affine.weight) to_weight.set(at, product);
  if (affine.bias) to_bias.set(at, grad);
}

template <class T, class S>
__global__ void __launch_bounds__(kThreads)
    differentiate(const __grid_constant__ Args<T> args, GroupedMap<const S> map, GroupedMap<const S> grad,
                  const double* mean, const double* rstd, const GradientSums* totals, GroupedMap<S> out) {
  const ChunkThread thread(args.groups);
  if (thread.channel >= args.groups.channels) return;
  const PlaneOfThread<T> plane(args, thread, mean, rstd);
  const S *x = map[thread.group] + thread.first, *g = grad[thread.group] + thread.first;
  S* y = out[thread.group] + thread.first;
  if (plane.row < 0) {
    thread.for_each_value(args.groups, [&](int64_t at) { y[at] = static_cast<S>(T(0)); });
    return;
  }
  const GradientLine<T> gradient =
      gradient_line_of<T>(totals[plane.plane], mean[plane.plane], rstd[plane.plane], args.groups.pixels);
  thread.for_each_value(args.groups, [&](int64_t at) {
    const T value = static_cast<T>(x[at]);
    const T flowing = activated(plane.at(value), static_cast<T>(g[at]), args.slope);
    y[at] = static_cast<S>(
        gradient_at(flowing, value - plane.line.mean, plane.line.scale, gradient.by_deviation, gradient.constant));
  });
}

// FASTVISION_CHECK=1: a style that does not exist raises here too.
void check_styles(const char* op, const Tensor& input, const AffineTensors& affine) {
  if (!affine.style || !checking()) return;
  const int64_t* style = affine.style->const_data_ptr<int64_t>();
  for (int64_t n = 0; n < input.size(0); ++n) {
    const int64_t row = read_back(op, input, style + n);
    if (row < 0 || row >= affine.styles) fail_style(op, n, row, affine.styles);
  }
}

// In the shape and dtype of weight or bias; [0] where there is none.
Tensor empty_like(const Tensor& input, const Optional& given) {
  if (!given) return empty_vector(input, 0);
  return empty_tensor(input, given->sizes(), given->scalar_type());
}

Stored stored(const Tensor& t) { return {t.mutable_data_ptr(), t.scalar_type()}; }

std::tuple<Tensor, Tensor, Tensor> instance_norm(const Tensor& input, const Optional& weight, const Optional& bias,
                                                 const Optional& style, double eps, double slope) {
  constexpr const char* kOp = "instance_norm";
  const AffineTensors affine = checked(kOp, input, weight, bias, style);
  check_styles(kOp, input, affine);
  auto [output, mean, rstd] = empty_outputs(input);
  if (output.numel() == 0) {
    clear_tensor(mean), clear_tensor(rstd);
    return {output, mean, rstd};
  }
  const bool channels_last = is_channels_last(input);
  const Tensor plain = style::grouped(input, channels_last);
  const Groups groups = style::groups_of(plain, channels_last, style::pixels_of_chunk);
  const Tensor partial = empty_vector(input, groups.count * groups.chunks * 2 * groups.channels, ScalarType::Double);
  double* pairs = partial.mutable_data_ptr<double>();
  double *means = mean.mutable_data_ptr<double>(), *rstds = rstd.mutable_data_ptr<double>();
  dispatch_floating(kOp, input.scalar_type(), [&, &output = output](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    const LaunchShape shape = style::chunk_shape(groups);
    const Args<T> args{groups, affine.view<T>(), T(slope)};
    const GroupedMap<const S> map = style::readable_map<S>(plain, channels_last);
    launch(kOp, &measure<T, S>, shape, input, groups, map, pairs);
    launch(kOp, &merge, style::plane_shape(groups), input, groups, pairs, eps, means, rstds);
    launch(kOp, &normalise<T, S>, shape, input, args, map, means, rstds, style::writable_map<S>(output, channels_last));
  });
  return {output, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_backward(const Tensor& grad, const Tensor& input,
                                                          const Optional& weight, const Optional& bias,
                                                          const Optional& style, const Tensor& mean, const Tensor& rstd,
                                                          double, double slope) {
  constexpr const char* kOp = "instance_norm_backward";
  const AffineTensors affine = checked(kOp, input, weight, bias, style);
  check_styles(kOp, input, affine);
  check_backward(kOp, grad, input, mean, rstd);
  const bool channels_last = is_channels_last(input);
  Tensor to_input = empty_map(input, input.size(0), input.size(1), input.size(2), input.size(3), channels_last);
  const Tensor to_weight = empty_like(input, weight), to_bias = empty_like(input, bias);
  if (to_input.numel() == 0) {
    for (const Tensor& t : {to_weight, to_bias}) clear(kOp, input, t.mutable_data_ptr(), t.numel() * t.element_size());
  } else {
    const Tensor plain = style::grouped(input, channels_last), plain_grad = style::grouped(grad, channels_last);
    const Tensor plain_mean = contiguous_as(mean, ScalarType::Double);
    const Tensor plain_rstd = contiguous_as(rstd, ScalarType::Double);
    const Groups groups = style::groups_of(plain, channels_last, style::pixels_of_chunk);
    const Tensor partial = empty_vector(input, groups.count * groups.chunks * 2 * groups.channels, ScalarType::Double);
    const Tensor totals = empty_vector(input, groups.count * groups.channels * 2, ScalarType::Double);
    double* pairs = partial.mutable_data_ptr<double>();
    auto* sums = reinterpret_cast<GradientSums*>(totals.mutable_data_ptr<double>());
    const double *means = plain_mean.const_data_ptr<double>(), *rstds = plain_rstd.const_data_ptr<double>();
    dispatch_floating(kOp, input.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      const LaunchShape shape = style::chunk_shape(groups), planes = style::plane_shape(groups);
      const Args<T> args{groups, affine.view<T>(), T(slope)};
      const GroupedMap<const S> map = style::readable_map<S>(plain, channels_last);
      const GroupedMap<const S> grads = style::readable_map<S>(plain_grad, channels_last);
      launch(kOp, &measure_gradient<T, S>, shape, input, args, map, grads, means, rstds, pairs);
      launch(kOp, &add_chunks<T>, planes, input, groups, pairs, means, rstds, sums);
      launch(kOp, &differentiate<T, S>, shape, input, args, map, grads, means, rstds, sums,
             style::writable_map<S>(to_input, channels_last));
      if (!weight && !bias) return;
      launch(kOp, &add_images<T>, {blocks_for(affine.styles * affine.channels, kThreads), kThreads}, input, args.affine,
             input.size(0), sums, stored(to_weight), stored(to_bias));
    });
  }
  return {to_input, to_weight, to_bias};
}

}  // namespace
}  // namespace fastvision::instance_norm

FV_CUDA_LIBRARY(m) {
  m.impl("instance_norm", TORCH_BOX(&fastvision::instance_norm::instance_norm));
  m.impl("instance_norm_backward", TORCH_BOX(&fastvision::instance_norm::instance_norm_backward));
}
