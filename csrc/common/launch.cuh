// The one way a kernel is launched, on a GPU and in emulation.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "common/host_device.h"
#include "common/shared_memory.cuh"

#ifndef FASTVISION_EMULATION
// Weak, so that one library also loads beside a CPU-only torch, which lacks the symbol.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
#endif

namespace fastvision {

constexpr int kWarp = 32;  // threads

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic shared memory of a block
};

// Blocks that cover `items`, as a grid dimension: 64-bit counts do not fit there unseen.
inline unsigned blocks_for(int64_t items, int64_t items_per_block) {
  const int64_t blocks = ceil_div(items, items_per_block);
  if (blocks > std::numeric_limits<int32_t>::max()) {
    throw std::runtime_error("too many elements for one CUDA grid: " + std::to_string(items));
  }
  return static_cast<unsigned>(blocks);
}

inline void check_cuda(const char* op, cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(error));
  }
}

// torch's current stream on the device of `like`.
inline cudaStream_t current_stream([[maybe_unused]] const torch::stable::Tensor& like) {
  void* stream = nullptr;
#ifndef FASTVISION_EMULATION
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error("fastvision: this torch was built without CUDA");
  }
  if (aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream) != 0) {
    throw std::runtime_error("fastvision: torch has no current CUDA stream for this device");
  }
#endif
  return static_cast<cudaStream_t>(stream);
}

// Runs kernel(args...) on the device of `like` and torch's current stream there. The arguments are
// converted to the kernel's own parameter types. An empty grid is no work, not an error.
template <class... P, class... A>
void launch(const char* op, void (*kernel)(P...), LaunchShape shape, [[maybe_unused]] const torch::stable::Tensor& like,
            A&&... args) {
  static_assert(sizeof...(P) == sizeof...(A), "launch: one argument for each kernel parameter");
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  constexpr unsigned kMost = 65535;  // blocks along y and z
  if (shape.grid.y > kMost || shape.grid.z > kMost) {
    throw std::runtime_error(std::string(op) + ": too many channels for one CUDA grid");
  }
  std::tuple<P...> parameters(std::forward<A>(args)...);
#ifdef FASTVISION_EMULATION
  emulation::run_grid(op, shape.grid, shape.block, shape.shared_bytes, [&] { std::apply(kernel, parameters); });
#else
  const auto function = reinterpret_cast<const void*>(kernel);
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  constexpr size_t kWithoutAsking = 32 * 1024;  // 48 KiB, less room for static arrays, need no opt-in
  if (shape.shared_bytes > kWithoutAsking) {
    check_cuda(op, cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shape.shared_bytes)));
  }
  const cudaStream_t stream = current_stream(like);
  std::apply(
      [&](P&... parameter) {
        void* addresses[] = {&parameter..., nullptr};
        cudaLaunchKernel(function, shape.grid, shape.block, addresses, shape.shared_bytes, stream);
      },
      parameters);
  check_cuda(op, cudaGetLastError());
#endif
}

// Zeros at an address on the device of `like`: a third of what torch's fill costs to launch.
inline void clear(const char* op, [[maybe_unused]] const torch::stable::Tensor& like, void* address, size_t bytes) {
  if (bytes == 0) return;
#ifndef FASTVISION_EMULATION
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
#endif
  check_cuda(op, cudaMemsetAsync(address, 0, bytes, current_stream(like)));
}

// The value at a device address, once the stream has reached this point. Inside a CUDA graph capture this is an error:
// an op whose output size depends on data cannot be captured.
template <class T>
T read_back(const char* op, const torch::stable::Tensor& like, const T* address) {
  const cudaStream_t stream = current_stream(like);
#ifndef FASTVISION_EMULATION
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  check_cuda(op, cudaStreamIsCapturing(stream, &capturing));
  if (capturing != cudaStreamCaptureStatusNone) {
    throw std::runtime_error(std::string(op) +
                             ": the call waits for the device, so it cannot be captured in a CUDA graph");
  }
#endif
  T value;
  check_cuda(op, cudaMemcpyAsync(&value, address, sizeof(T), cudaMemcpyDeviceToHost, stream));
  check_cuda(op, cudaStreamSynchronize(stream));
  return value;
}

}  // namespace fastvision
