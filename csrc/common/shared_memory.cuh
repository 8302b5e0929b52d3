// Shared memory, spelled so that emulation can give every array its own exactly sized, freshly
// filled allocation.
//
//   FV_SHARED(float, tile, [8][33]);    // float tile[8][33]
//   FV_SHARED(int, count);              // int count
//   FV_DYNAMIC_SHARED(float, columns);  // float* columns, 16-byte aligned: what the launch asked
//   for
#pragma once

#include <cuda_runtime.h>

#ifdef FASTVISION_EMULATION

#define FV_SHARED(type, name, ...)        \
  typedef type name##_shared __VA_ARGS__; \
  static char name##_site;                \
  name##_shared& name = ::fastvision::emulation::static_shared<name##_shared>(&name##_site)
#define FV_DYNAMIC_SHARED(type, name) type* const name = static_cast<type*>(::fastvision::emulation::dynamic_shared())

#else

#define FV_SHARED(type, name, ...) __shared__ type name __VA_ARGS__
// One symbol of one type for every kernel: extern arrays of the same name and different types clash
// within a file.
#define FV_DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(16) unsigned char fastvision_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(fastvision_dynamic_shared)

#endif
