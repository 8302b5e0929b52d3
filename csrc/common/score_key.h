// Unsigned keys that order scores: descending, -0 equal to +0, NaN last.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace fastvision {

// Keys ascend as scores descend; NaN maps to the largest key.
FV_HOST_DEVICE uint32_t descending_key(float score) {
  if (score != score) return 0xffffffffu;
  if (score == 0) score = 0;
  uint32_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

FV_HOST_DEVICE uint64_t descending_key(double score) {
  if (score != score) return ~uint64_t(0);
  if (score == 0) score = 0;
  uint64_t bits;
  memcpy(&bits, &score, sizeof(bits));
  return bits >> 63 ? bits : ~(bits | uint64_t(1) << 63);
}

// The score of a key; NaN for the largest.
FV_HOST_DEVICE float score_of_key(uint32_t key) {
  const uint32_t bits = key >> 31 ? key : ~key & 0x7fffffffu;
  float score;
  memcpy(&score, &bits, sizeof(score));
  return score;
}

FV_HOST_DEVICE double score_of_key(uint64_t key) {
  const uint64_t bits = key >> 63 ? key : ~key & ~(uint64_t(1) << 63);
  double score;
  memcpy(&score, &bits, sizeof(score));
  return score;
}

}  // namespace fastvision
