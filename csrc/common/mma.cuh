// Matrix products of a warp on the tensor cores of compute capability 8.0 and later, of numbers that keep 11 bits
// (TF32): PTX ISA, mma.sync.aligned.m16n8k8, whose fragments are laid out as MmaLane says.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"
#include "common/shared_memory.cuh"

namespace fastvision {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kHasTf32 = false;
#else
constexpr bool kHasTf32 = true;
#endif

// What a lane holds of a product of 16 x 8 numbers, 8 steps deep.
struct MmaLane {
  int group, member;

  FV_DEVICE MmaLane() : group(int(threadIdx.x) % 32 / 4), member(int(threadIdx.x) % 4) {}
  // part 0 to 3 of the left operand [16 rows, 8 steps], from row `group` and step `member` on
  static FV_DEVICE constexpr int left_row(int part) { return part % 2 * 8; }
  static FV_DEVICE constexpr int left_step(int part) { return part / 2 * 4; }
  // part 0 or 1 of the right operand [8 steps, 8 columns], in column `group`, from step `member` on
  static FV_DEVICE constexpr int right_step(int part) { return part * 4; }
  // part 0 to 3 of the sums [16 rows, 8 columns]: 0 and 1, 2 and 3 lie side by side
  FV_DEVICE int row(int part) const { return group + part / 2 * 8; }
  FV_DEVICE int column(int part) const { return member * 2 + part % 2; }
};

// The 11 bits next to a number; past the largest, an infinity.
FV_DEVICE float nearest_tf32(float value) { return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xffffe000u); }

#ifndef FASTVISION_EMULATION
FV_DEVICE void multiply_add_tf32(float (&sums)[4], const float (&left)[4], const float (&right)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(__float_as_uint(left[0])), "r"(__float_as_uint(left[1])), "r"(__float_as_uint(left[2])),
        "r"(__float_as_uint(left[3])), "r"(__float_as_uint(right[0])), "r"(__float_as_uint(right[1])));
#endif
}
#endif

// sums += left * right, of kDown x kAcross products of 16 x 8 numbers, each of which is the sum of kLeft or kRight
// parts, the largest first; without the product of two small parts. All lanes of a warp come here.
template <int kLeft, int kRight, int kDown, int kAcross>
FV_DEVICE void multiply_add_tf32(float (&sums)[kDown][kAcross][4], const float (&left)[kLeft][kDown][4],
                                 const float (&right)[kRight][kAcross][2]) {
#ifdef FASTVISION_EMULATION
  struct Fragments {
    float left[kLeft][kDown][4], right[kRight][kAcross][2];
  };
  constexpr int kMostWarps = 8;
  FV_SHARED(Fragments, lanes, [kMostWarps][32]);
  Fragments(&warp)[32] = lanes[threadIdx.x / 32];
  Fragments& mine = warp[threadIdx.x % 32];
  std::memcpy(mine.left, left, sizeof(left)), std::memcpy(mine.right, right, sizeof(right));
  for (float& value : reinterpret_cast<float (&)[sizeof(Fragments) / sizeof(float)]>(mine)) {
    value = __uint_as_float(__float_as_uint(value) & 0xffffe000u);  // what a tensor core reads of it
  }
  __syncwarp();
  const MmaLane at;
  const auto multiply_add = [&](int l, int r) {
    for (int i = 0; i < kDown; ++i) {
      for (int j = 0; j < kAcross; ++j) {
        for (int k = 0; k < 8; ++k) {
          const int step = k % 4, late = k / 4;
          const auto& a = warp[at.group * 4 + step].left[l][i];
          const float first = warp[at.column(0) * 4 + step].right[r][j][late],
                      second = warp[at.column(1) * 4 + step].right[r][j][late];
          sums[i][j][0] += a[late * 2] * first, sums[i][j][1] += a[late * 2] * second;
          sums[i][j][2] += a[late * 2 + 1] * first, sums[i][j][3] += a[late * 2 + 1] * second;
        }
      }
    }
  };
#else
  const auto multiply_add = [&](int l, int r) {
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int j = 0; j < kAcross; ++j) multiply_add_tf32(sums[i][j], left[l][i], right[r][j]);
    }
  };
#endif
  if constexpr (kLeft == 2) multiply_add(1, 0);
  if constexpr (kRight == 2) multiply_add(0, 1);
  multiply_add(0, 0);
#ifdef FASTVISION_EMULATION
  __syncwarp();
#endif
}

}  // namespace fastvision
