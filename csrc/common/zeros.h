// A large tensor of zeros that is mostly left alone.
//
// Where its memory comes from decides what it costs. Fresh pages are cleared by the kernel, at 7 GB/s a thread on the
// machines measured, 2 GB/s in pages of 4 KiB; clearing memory that was used before, past the caches, runs at twice to
// three times that. So the last few blocks are kept, marked as free for the kernel to take when memory is short. Pages
// that do come from the kernel are not cleared a second time.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "common/memory.h"
#include "common/parallel.h"

namespace fastvision {

#ifdef __linux__

// `bytes` is a multiple of a huge page.
struct Block {
  void* data = nullptr;
  size_t bytes = 0;

  static Block fresh(size_t bytes) {
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) return {};
    advise_huge_pages(data, bytes);
    return {data, bytes};
  }

  void unmap() const {
    if (data) munmap(data, bytes);
  }
};

// Blocks that tensors gave back, oldest first. A thread that finds the list busy does without: nothing here waits, so
// a process forked in the middle cannot hang.
class FreeBlocks {
 public:
  // a block of at least that size, its contents whatever they were, or none
  Block take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    const auto found = std::find_if(blocks_.rbegin(), blocks_.rend(), [&](const Block& b) { return b.bytes >= bytes; });
    if (found == blocks_.rend()) return {};
    const Block block = *found;
    blocks_.erase(std::next(found).base());
    return block;
  }

  void give_back(Block block) {
#ifdef MADV_FREE
    if (block.bytes <= kMost) madvise(block.data, block.bytes, MADV_FREE);
#endif
    std::vector<Block> surplus;
    {
      const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
      if (!lock || block.bytes > kMost) return block.unmap();
      blocks_.push_back(block);
      size_t total = 0;
      const auto kept = std::find_if(blocks_.rbegin(), blocks_.rend(),
                                     [&](const Block& b) { return (total += b.bytes) > kMost; });
      surplus.assign(blocks_.begin(), kept.base());
      blocks_.erase(blocks_.begin(), kept.base());
    }
    for (const Block& old : surplus) old.unmap();
  }

  // outlives every tensor, also those that die while the process ends
  static FreeBlocks& instance() {
    static FreeBlocks* blocks = new FreeBlocks;
    return *blocks;
  }

 private:
  static constexpr size_t kMost = size_t(256) << 20;

  std::mutex mutex_;
  std::vector<Block> blocks_;
};

// Both ends at multiples of 64 bytes. Streaming stores need not read what they overwrite.
inline void clear_lines(char* begin, char* end) {
#ifdef __SSE2__
  const __m128i zero = _mm_setzero_si128();
  for (char* line = begin; line < end; line += 64) {
    for (int part = 0; part < 64; part += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(line + part), zero);
  }
  _mm_sfence();
#else
  std::memset(begin, 0, size_t(end - begin));
#endif
}

inline Block block_of_zeros(size_t bytes) {
  const int64_t pages = int64_t((bytes + kHugePage - 1) / kHugePage);
  const Block used = FreeBlocks::instance().take(size_t(pages) * kHugePage);
  if (!used.data) return Block::fresh(size_t(pages) * kHugePage);
  char* const data = static_cast<char*>(used.data);
  parallel_for(pages, 1, [data](int64_t begin, int64_t end) {
    clear_lines(data + size_t(begin) * kHugePage, data + size_t(end) * kHugePage);
  });
  return used;
}

#endif

// [sizes], contiguous, on the CPU.
inline torch::stable::Tensor sparse_zeros(const torch::stable::Tensor& like, std::vector<int64_t> sizes,
                                          torch::headeronly::ScalarType dtype, int64_t element_size) {
#ifdef __linux__
  int64_t bytes = element_size;
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 0; bytes *= sizes[d]) strides[d] = bytes / element_size;
  if (bytes >= int64_t(kHugePage)) {
    if (const Block block = block_of_zeros(size_t(bytes)); block.data) {
      const auto give_back = [block](void*) { FreeBlocks::instance().give_back(block); };
      return torch::stable::from_blob(block.data, sizes, strides, like.device(), dtype, give_back);
    }
  }
#endif
  torch::stable::Tensor zeros = torch::stable::new_empty(like, sizes, dtype);
  torch::stable::zero_(zeros);
  return zeros;
}

}  // namespace fastvision
