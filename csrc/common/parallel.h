// Threads come from torch's own pool: torch.set_num_threads governs them, and nested calls stay serial.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
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

// worker(next) on every thread: next() hands out 0, 1, ..., count - 1, each once, then `count`. For items of different
// cost, with scratch memory that outlives an item.
template <class Worker>
void parallel_workers(int64_t count, const Worker& worker) {
  if (count <= 0) return;
  std::atomic<int64_t> items{0};
  const auto next = [&] { return std::min(count, items.fetch_add(1, std::memory_order_relaxed)); };
  parallel_for(std::min(count, thread_count()), 1, [&](int64_t, int64_t) { worker(next); });
}

}  // namespace fastvision
