// Threads come from torch's own pool: torch.set_num_threads governs them, and nested calls stay serial.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

namespace fastvision {

inline int64_t thread_count() { return torch::stable::get_num_threads(); }

// body(begin, end) over [0, count), at least `grain` items a thread; serial work skips the pool altogether.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  if (count <= grain) {
    body(int64_t{0}, count);
  } else {
    torch::stable::parallel_for(0, count, grain, body);
  }
}

// body(i) for each i of [0, count), handed out one by one: for few items of very different cost.
template <class Body>
void parallel_for_each(int64_t count, const Body& body) {
  parallel_for(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace fastvision
