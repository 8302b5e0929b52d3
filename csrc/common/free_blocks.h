// Large pieces of memory, used again.
//
// Fresh pages are cleared by the kernel: at 7 GB/s a thread on the machines measured, 2 GB/s in pages of 4 KiB, which
// is slower than most of what is written to them. The C library keeps small blocks, but takes large ones from the
// kernel every time. So the last few that were given back are kept here; those that nobody wants for a second are
// marked as free for the kernel to take when memory is short.
//
// There is another reason: whoever frees the end of the C library's heap waits until all that lies free before it,
// whosever it was, is returned. Beside ops that free maps of 16 MB that took 5 to 12 ms, in a style loss that takes 9.
// So no large tensor comes from there, and no scratch of some size (memory.h).
#pragma once

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fastvision {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kLarge = kHugePage / 2;  // from here on memory is kept here
// Bytes kept: room for a map of 137 MB, its gradient and as much to work with.
constexpr size_t kMostKept = size_t(512) << 20;

// For memory that is written once, front to back, and is large: a fresh 100 MB tensor costs 25 000 page faults, about
// 20 ms, more than filling it; with pages of 2 MiB it costs 50. Where transparent huge pages are "always" or "never",
// or the system is not Linux, the advice changes nothing.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Pages in a row, huge ones where there is room for them, or nothing.
struct Block {
  void* data = nullptr;
  size_t bytes = 0;
};

#ifdef __linux__

// What was given back, oldest first. A thread that finds the list busy does without: taking and giving never wait,
// so a process that was forked in the middle cannot hang in them, and never throw.
class FreeBlocks {
 public:
  // Marking a huge page takes as long as writing it, 18 us while another thread runs, so blocks that a program keeps
  // using are left alone. One of the others is marked when a block is given back: there is no thread for it.
  static constexpr std::chrono::seconds kIdle{1};

  // The smallest block that is large enough, with whatever it held, or none; of equals the one that came last, so that
  // the others become idle. None of more than twice the size: its owner holds all of it for as long as it lives.
  Block take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return {};
    int best = -1;
    for (int i = 0; i < count_; ++i) {
      const size_t size = kept_[i].block.bytes;
      if (size >= bytes && size / 2 <= bytes && (best < 0 || size <= kept_[best].block.bytes)) best = i;
    }
    return best < 0 ? Block{} : remove(best);
  }

  void give_back(const Block& block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || block.bytes > kMostKept) {
      munmap(block.data, block.bytes);
      return;
    }
    while (count_ == kSlots || total_ + block.bytes > kMostKept) unmap_oldest();
    const Clock::time_point now = Clock::now();
    mark_idle(now - kIdle);
    kept_[count_++] = {block, now};
    total_ += block.bytes;
  }

  void clear() {
    const std::unique_lock<std::mutex> lock(mutex_);
    while (count_ > 0) unmap_oldest();
  }

  // outlives every tensor, those too that die while the process ends
  static FreeBlocks& instance() {
    static FreeBlocks* blocks = new FreeBlocks;
    return *blocks;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kSlots = 64;  // scratch of every thread among them

  struct Kept {
    Block block;
    Clock::time_point since;
  };

  void mark_idle([[maybe_unused]] Clock::time_point before) {
#ifdef MADV_FREE
    if (marked_ < count_ && kept_[marked_].since < before) {
      const Block& idle = kept_[marked_++].block;
      madvise(idle.data, idle.bytes, MADV_FREE);
    }
#endif
  }

  Block remove(int i) {
    const Block block = kept_[i].block;
    std::copy(kept_ + i + 1, kept_ + count_--, kept_ + i);
    marked_ -= i < marked_;
    total_ -= block.bytes;
    return block;
  }

  void unmap_oldest() {
    const Block block = remove(0);
    munmap(block.data, block.bytes);
  }

  std::mutex mutex_;
  Kept kept_[kSlots];
  int count_ = 0, marked_ = 0;  // marked: the oldest so many
  size_t total_ = 0;
};

// Fresh pages read as zeros, and are best not cleared again. The last page is a huge one only if that is little more
// than what is asked for: 2.1 MB would take 4.
inline Block fresh_block(size_t bytes) {
  const size_t whole = bytes <= kLarge ? std::bit_ceil(bytes) : (bytes + kHugePage - 1) / kHugePage * kHugePage;
  const size_t huge = whole - bytes <= bytes / 8 ? whole : whole - std::min(whole, kHugePage);
  void* data = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return {};
  advise_huge_pages(data, huge);
  return {data, whole};
}

inline Block used_block(size_t bytes) { return FreeBlocks::instance().take(bytes); }
inline Block used_or_fresh_block(size_t bytes) {
  const Block block = used_block(bytes);
  return block.data ? block : fresh_block(bytes);
}
inline void give_back(const Block& block) { FreeBlocks::instance().give_back(block); }
inline void empty_cache() { FreeBlocks::instance().clear(); }

#else

inline Block used_or_fresh_block(size_t) { return {}; }
inline void give_back(const Block&) {}
inline void empty_cache() {}

#endif

}  // namespace fastvision
