// total_variation_loss on CUDA. Forward: a block sums a fixed chunk of an image, a thread the chunks of an image in
// order. Backward: one thread a value. Any strides; neighbouring threads take neighbours in memory in both formats.
#include "common/cuda_library.cuh"
#include "style/total_variation_loss.h"

namespace fastvision::total_variation_loss {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 16 * kThreads;  // values

struct Images {
  int64_t count, channels, height, width;
  Strides step;
  bool channels_last;

  FV_HOST_DEVICE int64_t values() const { return channels * height * width; }
};

Images images_of(const Tensor& t) {
  return {t.size(0), t.size(1), t.size(2), t.size(3), strides_of(t), is_channels_last(t)};
}

// Value `index` of an image, in the order of its memory.
struct Place {
  int64_t c, y, x;

  FV_DEVICE Place(const Images& images, int64_t index) {
    if (images.channels_last) {
      c = index % images.channels, index /= images.channels;
      x = index % images.width, y = index / images.width;
    } else {
      x = index % images.width, index /= images.width;
      y = index % images.height, c = index / images.height;
    }
  }
  FV_DEVICE int64_t at(const Strides& step) const { return c * step.c + y * step.h + x * step.w; }
};

// partial [N, chunks]
template <class Norm, class T, class S>
__global__ void __launch_bounds__(kThreads)
    add_terms(const Images images, const S* __restrict__ data, int64_t chunks, double* partial) {
  FV_SHARED(double, sums, [kThreads]);
  const int64_t n = blockIdx.x / chunks, first = blockIdx.x % chunks * kChunk;
  const int64_t last = minimum(first + kChunk, images.values());
  const S* image = data + n * images.step.n;
  T sum = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += kThreads) {
    const Place place(images, i);
    const S* value = image + place.at(images.step);
    const T x = static_cast<T>(*value);
    if (place.x + 1 < images.width) sum += Norm::term(static_cast<T>(value[images.step.w]) - x);
    if (place.y + 1 < images.height) sum += Norm::term(static_cast<T>(value[images.step.h]) - x);
  }
  sums[threadIdx.x] = double(sum);
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

template <class T>
__global__ void __launch_bounds__(kThreads) add_chunks(const double* partial, int64_t images, int64_t chunks, T* loss) {
  const int64_t n = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= images) return;
  double sum = 0;
  for (int64_t i = 0; i < chunks; ++i) sum += partial[n * chunks + i];
  loss[n] = T(sum);
}

template <class Norm, class T, class S>
__global__ void __launch_bounds__(kThreads)
    differentiate(const Images images, const S* __restrict__ data, const T* __restrict__ grad, Strides out_step,
                  S* __restrict__ out) {
  const int64_t e = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= images.count * images.values()) return;
  const int64_t n = e / images.values();
  const Place place(images, e % images.values());
  const S* value = data + n * images.step.n + place.at(images.step);
  const T x = static_cast<T>(*value);
  T slope = 0;
  if (place.x > 0) slope += Norm::derivative(x - static_cast<T>(value[-images.step.w]));
  if (place.x + 1 < images.width) slope += Norm::derivative(x - static_cast<T>(value[images.step.w]));
  if (place.y > 0) slope += Norm::derivative(x - static_cast<T>(value[-images.step.h]));
  if (place.y + 1 < images.height) slope += Norm::derivative(x - static_cast<T>(value[images.step.h]));
  out[n * out_step.n + place.at(out_step)] = static_cast<S>(grad[n] * slope);
}

Tensor total_variation_loss(const Tensor& images, std::string norm) {
  constexpr const char* kOp = "total_variation_loss";
  check_images(kOp, images);
  const int64_t batch = images.size(0);
  Tensor loss = clear_tensor(empty_vector(images, batch, loss_type(images)));
  dispatch_norm(kOp, norm, [&](auto rule) {
    using Norm = decltype(rule);
    if (images.numel() == 0) return;
    const Images view = images_of(images);
    const int64_t chunks = ceil_div(view.values(), kChunk);
    const Tensor partial = empty_vector(images, batch * chunks, ScalarType::Double);
    dispatch_floating(kOp, images.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      launch(kOp, &add_terms<Norm, T, S>, {blocks_for(batch * chunks, 1), kThreads}, images, view,
             images.const_data_ptr<S>(), chunks, partial.mutable_data_ptr<double>());
      launch(kOp, &add_chunks<T>, {blocks_for(batch, kThreads), kThreads}, images, partial.const_data_ptr<double>(),
             batch, chunks, loss.mutable_data_ptr<T>());
    });
  });
  return loss;
}

Tensor total_variation_loss_backward(const Tensor& grad, const Tensor& images, std::string norm) {
  constexpr const char* kOp = "total_variation_loss_backward";
  check_backward(kOp, grad, images);
  Tensor to_images = map_like(images);
  dispatch_norm(kOp, norm, [&](auto rule) {
    using Norm = decltype(rule);
    if (images.numel() == 0) return;
    const Tensor plain_grad = contiguous_as(grad, grad.scalar_type());
    dispatch_floating(kOp, images.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      launch(kOp, &differentiate<Norm, T, S>, {blocks_for(images.numel(), kThreads), kThreads}, images,
             images_of(images), images.const_data_ptr<S>(), plain_grad.const_data_ptr<T>(), strides_of(to_images),
             to_images.mutable_data_ptr<S>());
    });
  });
  return to_images;
}

}  // namespace
}  // namespace fastvision::total_variation_loss

FV_CUDA_LIBRARY(m) {
  m.impl("total_variation_loss", TORCH_BOX(&fastvision::total_variation_loss::total_variation_loss));
  m.impl("total_variation_loss_backward", TORCH_BOX(&fastvision::total_variation_loss::total_variation_loss_backward));
}
