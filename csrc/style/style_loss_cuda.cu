// style_loss on CUDA: two launches for up to kMostLayers layers, two for their gradients and one to scale them, with
// nothing read back.
#include "style/gram_matrix.cuh"
#include "style/gram_matrix_backward.cuh"

namespace fastvision::gram_matrix {
namespace {

// The sum of all threads of a block, in thread 0.
FV_DEVICE double sum_of_block(double value) {
  FV_SHARED(double, sums, [kReducers]);
  __syncthreads();  // the sums of the last call have been read
  sums[threadIdx.x] = value;
  for (int half = kReducers / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  return sums[0];
}

// The squared differences of all patches of all launches, which become the loss once the last of them is there.
template <class T>
struct Squares {
  double* of_patch;  // [count]
  int64_t count;
  unsigned* finished;  // patches; the first launch of multiply_chunks clears it
  T* loss;
};

// grid: patches of all layers, the first of which is number `first` of all launches
template <class T, class S>
__global__ void __launch_bounds__(kReducers)
    subtract_targets(const __grid_constant__ Layers<T, S> layers, const Squares<T> squares, int64_t first) {
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= layers.first_patch[l + 1]) ++l;
  const Layer<T, S>& layer = layers.layer[l];
  const Params& p = layer.plan.p;
  const Entry<T> entry = add_chunks(layer, unsigned(blockIdx.x - layers.first_patch[l]));
  double square = 0;
  if (entry.any) {
    const T* target = layer.target + entry.image * layer.target_step;
    T* differences = layer.differences + entry.image * layer.plan.matrix();
    const auto subtract = [&](int64_t i, int64_t j) {
      const T difference = entry.value - target[i * p.channels + j];
      differences[i * p.channels + j] = difference;
      square += double(difference) * double(difference);
    };
    subtract(entry.row, entry.column);
    if (entry.row != entry.column) subtract(entry.column, entry.row);
  }
  FV_SHARED(bool, last);
  const double sum = sum_of_block(square);
  if (threadIdx.x == 0) {
    squares.of_patch[first + blockIdx.x] = layer.weight * sum / double(p.batch);
    __threadfence();
    last = int64_t(atomicAdd(squares.finished, 1u)) == squares.count - 1;
  }
  __syncthreads();
  if (!last) return;
  // in an order that does not depend on which block is the last
  __threadfence();
  const volatile double* of_patch = squares.of_patch;
  double total = 0;
  for (int64_t i = threadIdx.x; i < squares.count; i += kReducers) total += of_patch[i];
  total = sum_of_block(total);
  if (threadIdx.x == 0) *squares.loss = T(total);
}

// What style_loss reads, as the kernels do.
struct Inputs {
  std::vector<Tensor> features, targets;
  std::vector<double> weights;
  std::vector<int64_t> divisors;
  std::vector<Plan> plans;

  int64_t patches() const {
    int64_t sum = 0;
    for (const Plan& plan : plans) sum += plan.patches();
    return sum;
  }
};

// Layers [first, last), whose differences go where the others end; first_patch: of all
template <class T, class S>
void subtract_layers(const Inputs& in, size_t first, size_t last, T* differences, const Squares<T>& squares,
                     int64_t first_patch) {
  constexpr const char* kOp = "style_loss";
  int64_t size = 0;
  for (size_t l = first; l < last; ++l) size += in.plans[l].items() * in.plans[l].tile_size();
  const Tensor& like = in.features[0];
  const Tensor scratch = empty_vector(like, size, geometry_type(like.scalar_type()));
  T* partial = scratch.mutable_data_ptr<T>();
  Layers<T, S> layers{};
  layers.counter_to_clear = first_patch == 0 ? squares.finished : nullptr;
  for (size_t l = first; l < last; ++l) {
    const Plan& plan = in.plans[l];
    const int64_t target_step = in.targets[l].dim() == 2 ? 0 : plan.matrix();
    layers.add({plan, in.features[l].const_data_ptr<S>(), partial, T(scale_of(in.divisors[l])),
                in.targets[l].const_data_ptr<T>(), target_step, differences, in.weights[l]});
    partial += plan.items() * plan.tile_size(), differences += plan.p.batch * plan.matrix();
  }
  const int64_t items = layers.first_item[layers.count], patches = layers.first_patch[layers.count];
  launch(kOp, &multiply_chunks<T, S>, {blocks_for(items, 1), kThreads, shared_bytes<T>()}, like, layers);
  launch(kOp, &subtract_targets<T, S>, {blocks_for(patches, 1), kReducers}, like, layers, squares, first_patch);
}

std::tuple<Tensor, Tensor> style_loss(std::vector<Tensor> features, std::vector<Tensor> targets,
                                      std::vector<double> weights, std::vector<int64_t> divisors) {
  constexpr const char* kOp = "style_loss";
  check_layers(kOp, features, targets, weights, divisors);
  const ScalarType type = loss_type(features);
  const auto mixed = [&](const Tensor& f) { return f.scalar_type() != features[0].scalar_type(); };
  const bool cast = std::any_of(features.begin(), features.end(), mixed);  // rare: one launch takes one dtype
  Inputs in{{}, {}, weights, divisors, {}};
  int64_t size = 0;
  for (size_t l = 0; l < features.size(); ++l) {
    in.features.push_back(dense(cast ? as_type(features[l], type) : features[l]));
    in.targets.push_back(contiguous_as(targets[l], type));
    in.plans.push_back(make_plan(make_params(kOp, in.features[l])));  // whose order may be another than before a cast
    size += in.plans[l].p.batch * in.plans[l].matrix();
  }
  const Tensor differences = empty_vector(features[0], size, type);
  Tensor loss = empty_tensor(features[0], {}, type);
  if (size == 0) return {clear_tensor(loss), differences};
  const int64_t patches = in.patches();
  const Tensor scratch = empty_vector(features[0], patches + 1, ScalarType::Double);
  dispatch_floating(kOp, in.features[0].scalar_type(), [&](auto t) {
    using S = typename decltype(t)::type;
    using T = Accumulator<S>;
    T* difference = differences.mutable_data_ptr<T>();
    double* of_patch = scratch.mutable_data_ptr<double>();
    const Squares<T> squares{of_patch, patches, reinterpret_cast<unsigned*>(of_patch + patches),
                             loss.mutable_data_ptr<T>()};
    int64_t patch = 0;
    for (size_t first = 0; first < features.size(); first += kMostLayers) {
      const size_t last = std::min(first + kMostLayers, features.size());
      subtract_layers<T, S>(in, first, last, difference, squares, patch);
      for (size_t l = first; l < last; ++l) {
        difference += in.plans[l].p.batch * in.plans[l].matrix(), patch += in.plans[l].patches();
      }
    }
  });
  return {loss, differences};
}

std::vector<Tensor> style_loss_backward(std::optional<Tensor> grad, const Tensor& differences,
                                        std::vector<Tensor> features, std::vector<double> weights,
                                        std::vector<int64_t> divisors, std::vector<int64_t> layers) {
  return gradients_of_layers(
      grad, differences, features, weights, divisors, layers,
      []<class G>(const char* op, const std::vector<LayerFlow<G>>& flows) {
        std::vector<Source<G>> sources;
        for (const auto& [p, f, difference, above, scale] : flows) {
          sources.push_back({p, {difference, {p.channels * p.channels, 0, p.channels, 1}, above}, f, scale});
        }
        return to_features(op, sources);
      });
}

constexpr int kPacksOfThread = 16;

template <class T>
using ScaledPack = Pack<T, 16 / int(sizeof(T))>;

// Blocks go through the gradients one after the other.
template <class T>
struct Scaled {
  static constexpr int64_t kNumbersOfBlock = kReducers * kPacksOfThread * (16 / int(sizeof(T)));

  const T* factor;
  int64_t count;
  int64_t first_block[kMostLayers + 1], size[kMostLayers];
  T* numbers[kMostLayers];  // on 16 bytes

  void add(const char* op, const Tensor& gradient) {
    size[count] = gradient.numel(), numbers[count] = gradient.mutable_data_ptr<T>();
    FV_CHECK(reinterpret_cast<uintptr_t>(numbers[count]) % 16 == 0, op, "expected gradients that begin on 16 bytes");
    first_block[count + 1] = first_block[count] + ceil_div(size[count], kNumbersOfBlock);
    ++count;
  }
};

// numbers *= factor; a loss that nothing came after has the factor 1, and nothing is read.
template <class T>
__global__ void __launch_bounds__(kReducers) scale(const __grid_constant__ Scaled<T> scaled) {
  constexpr int kPack = 16 / int(sizeof(T));
  const T factor = *scaled.factor;
  if (factor == T(1)) return;
  int64_t l = 0;
  while (int64_t(blockIdx.x) >= scaled.first_block[l + 1]) ++l;
  T* numbers = scaled.numbers[l];
  const int64_t size = scaled.size[l], first = (blockIdx.x - scaled.first_block[l]) * Scaled<T>::kNumbersOfBlock;
#pragma unroll 4
  for (int k = 0; k < kPacksOfThread; ++k) {
    const int64_t i = first + (int64_t(k) * kReducers + threadIdx.x) * kPack;
    if (i + kPack <= size) {
      ScaledPack<T>& pack = *reinterpret_cast<ScaledPack<T>*>(numbers + i);
      ScaledPack<T> product = pack;
      for (int j = 0; j < kPack; ++j) product.of[j] *= factor;
      pack = product;
    } else {
      for (int64_t j = i; j < size; ++j) numbers[j] *= factor;
    }
  }
}

void style_loss_scale_(std::vector<Tensor> gradients, const Tensor& factor) {
  constexpr const char* kOp = "style_loss_scale_";
  dispatch_geometry(check_scaled(kOp, gradients, factor), [&](auto t) {
    using T = typename decltype(t)::type;
    for (size_t first = 0; first < gradients.size(); first += kMostLayers) {
      Scaled<T> scaled{factor.const_data_ptr<T>(), 0, {}, {}, {}};
      const size_t last = std::min(first + kMostLayers, gradients.size());
      for (size_t l = first; l < last; ++l) scaled.add(kOp, gradients[l]);
      launch(kOp, &scale<T>, {blocks_for(scaled.first_block[scaled.count], 1), kReducers}, factor, scaled);
    }
  });
}

}  // namespace
}  // namespace fastvision::gram_matrix

FV_CUDA_LIBRARY(m) {
  m.impl("style_loss", TORCH_BOX(&fastvision::gram_matrix::style_loss));
  m.impl("style_loss_backward", TORCH_BOX(&fastvision::gram_matrix::style_loss_backward));
  m.impl("style_loss_scale_", TORCH_BOX(&fastvision::gram_matrix::style_loss_scale_));
}
