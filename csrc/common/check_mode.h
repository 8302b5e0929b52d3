// FASTVISION_CHECK=1: indices that are wrong raise on CUDA too. The check waits for the device, so it is for finding
// mistakes, not for production.
#pragma once

#include <cstdlib>
#include <cstring>

namespace fastvision {

inline bool checking() {
  const char* wanted = std::getenv("FASTVISION_CHECK");
  return wanted && std::strcmp(wanted, "1") == 0;
}

}  // namespace fastvision
