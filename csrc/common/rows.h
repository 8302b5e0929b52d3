// Independent rows on the CPU: a few at a time over threads.
#pragma once

#include "common/checks.h"
#include "common/parallel.h"

namespace fastvision {

// Runs row(i) for each of `count` rows.
struct CpuRows {
  static constexpr bool kOnHost = true;  // the data can be looked at

  template <class Row>
  static void run(const char*, const Tensor&, int64_t count, const Row& row) {
    parallel_for(count, 2048, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) row(i);
    });
  }
};

}  // namespace fastvision
