// CUDA's built-in vector types, with CUDA's alignments: a misaligned float4 access shows under
// UBSan.
#pragma once

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};

#define FV_VECTOR_TYPES(type, name)                                                      \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };                               \
  struct alignas(sizeof(type) < 4 ? 4 * sizeof(type) : 16) name##4 { type x, y, z, w; }; \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }                       \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

FV_VECTOR_TYPES(unsigned char, uchar)
FV_VECTOR_TYPES(short, short)
FV_VECTOR_TYPES(unsigned short, ushort)
FV_VECTOR_TYPES(int, int)
FV_VECTOR_TYPES(unsigned, uint)
FV_VECTOR_TYPES(long long, longlong)
FV_VECTOR_TYPES(unsigned long long, ulonglong)
FV_VECTOR_TYPES(float, float)
FV_VECTOR_TYPES(double, double)

#undef FV_VECTOR_TYPES

struct int3 {
  int x, y, z;
};
struct float3 {
  float x, y, z;
};
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
