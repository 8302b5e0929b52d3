// A host stand-in for <cuda_runtime.h>: the part of CUDA that kernels of this library may use, found first
// on the include path when a .cu file is compiled as C++. See grid.h for how threads run.
//
// Left out on purpose: raw __shared__ (FV_SHARED and FV_DYNAMIC_SHARED are checked byte by byte),
// __activemask() and the shuffles without a mask (both depend on how a GPU happens to group
// threads).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulation/atomics.h"
#include "emulation/grid.h"
#include "emulation/synchronization.h"
#include "vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

// ---- Runtime ----

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t = nullptr) {
  if (bytes > 0) std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

// ---- Memory ----

inline void __threadfence() {}
inline void __threadfence_block() {}
template <class T>
T __ldg(const T* address) {
  return *address;
}

// ---- Bits ----

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }

namespace fastvision::emulation {
template <class To, class From>
To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace fastvision::emulation

inline int __float_as_int(float x) { return fastvision::emulation::bit_cast<int>(x); }
inline float __int_as_float(int x) { return fastvision::emulation::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return fastvision::emulation::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return fastvision::emulation::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return fastvision::emulation::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return fastvision::emulation::bit_cast<double>(x); }

// ---- Arithmetic ----

namespace fastvision::emulation {
template <class A, class B>
using Common = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>>;
}  // namespace fastvision::emulation

// As in CUDA, of a number and a NaN the number.
template <class A, class B>
constexpr fastvision::emulation::Common<A, B> min(A a, B b) {
  using T = fastvision::emulation::Common<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  return x < y || y != y ? x : y;
}
template <class A, class B>
constexpr fastvision::emulation::Common<A, B> max(A a, B b) {
  using T = fastvision::emulation::Common<A, B>;
  const T x = static_cast<T>(a), y = static_cast<T>(b);
  return x > y || y != y ? x : y;
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
