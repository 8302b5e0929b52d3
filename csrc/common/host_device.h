// Maths that is written once and compiled for both sides: FV_HOST_DEVICE functions.
//
// Also arithmetic whose rounding is part of its meaning. nvcc may contract a * b + c into one fused
// multiply-add, which rounds once where the host rounds twice; a decision such as IoU > t would
// then differ between devices. Each of mul_rn, add_rn, sub_rn and div_rn is rounded on its own
// everywhere (the host is compiled with -ffp-contract=off).
#pragma once

#ifdef __CUDACC__
#define FV_HOST_DEVICE __host__ __device__ __forceinline__
#define FV_DEVICE __device__ __forceinline__
#define FV_HOST_DEVICE_ALWAYS FV_HOST_DEVICE
#else
#define FV_HOST_DEVICE inline
#define FV_DEVICE inline
// for functions of vectors, which in a call of their own would travel as the caller's instruction set has it
#define FV_HOST_DEVICE_ALWAYS [[gnu::always_inline]] inline
#endif

namespace fastvision {

template <class A, class B>
FV_HOST_DEVICE constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

#ifdef __CUDA_ARCH__
#define FV_ROUNDED(name, op, float_intrinsic, double_intrinsic)                 \
  FV_HOST_DEVICE float name(float a, float b) { return float_intrinsic(a, b); } \
  FV_HOST_DEVICE double name(double a, double b) { return double_intrinsic(a, b); }
#else
#define FV_ROUNDED(name, op, float_intrinsic, double_intrinsic)  \
  FV_HOST_DEVICE float name(float a, float b) { return a op b; } \
  FV_HOST_DEVICE double name(double a, double b) { return a op b; }
#endif

FV_ROUNDED(mul_rn, *, __fmul_rn, __dmul_rn)
FV_ROUNDED(add_rn, +, __fadd_rn, __dadd_rn)
FV_ROUNDED(sub_rn, -, __fsub_rn, __dsub_rn)
FV_ROUNDED(div_rn, /, __fdiv_rn, __ddiv_rn)

#undef FV_ROUNDED

}  // namespace fastvision
