// Scratch memory.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "common/free_blocks.h"

namespace fastvision {

#ifdef __linux__

// What one thread works in: pieces not larger than 1 MB, kept until it ends, without a lock and in its own caches.
class ThreadScratch {
 public:
  static ThreadScratch& instance() {
    static thread_local ThreadScratch scratch;
    return scratch;
  }

  Block take(size_t bytes) {
    for (Block& kept : kept_) {
      if (kept.bytes >= bytes && kept.bytes / 2 <= bytes) return std::exchange(kept, Block{});
    }
    return fresh_block(bytes);
  }

  void give_back(Block block) {
    for (Block& kept : kept_) {
      if (!kept.data) return void(kept = block);
    }
    std::swap(kept_[next_++ % kSlots], block);
    munmap(block.data, block.bytes);
  }

  ~ThreadScratch() {
    for (const Block& kept : kept_) {
      if (kept.data) munmap(kept.data, kept.bytes);
    }
  }

 private:
  static constexpr unsigned kSlots = 8;  // as many as an op has at a time, 8 MB at most
  Block kept_[kSlots];
  unsigned next_ = 0;
};

#endif

// Memory of some size to work in; nothing, if it is small or there is none.
inline Block take_scratch([[maybe_unused]] size_t bytes) {
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)  // the sanitizer sees the ends of what malloc gives
  constexpr size_t kSome = 1 << 15;
  if (kSome <= bytes && bytes <= kLarge) return ThreadScratch::instance().take(bytes);
#endif
  return bytes <= kLarge ? Block{} : used_or_fresh_block(bytes);
}

inline void give_back_scratch(const Block& block) {
#ifdef __linux__
  if (block.bytes <= kLarge) return ThreadScratch::instance().give_back(block);
#endif
  give_back(block);
}

// Uninitialised scratch memory, aligned to cache lines. Grows, never shrinks; the contents are lost when it grows.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) { reserve(count); }

  void reserve(size_t count) {
    if (count <= capacity_) return;
    data_ = {}, capacity_ = 0;  // before a new one is taken
    data_ = allocate(count * sizeof(T));
    capacity_ = count;
  }

  T* data() const { return data_.get(); }
  T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    size_t block = 0;  // bytes, of one that is kept

    void operator()(T* pointer) const {
      if (block > 0) {
        give_back_scratch(Block{pointer, block});
      } else {
        std::free(pointer);
      }
    }
  };
  using Pointer = std::unique_ptr<T[], Free>;

  static Pointer allocate(size_t bytes) {
    constexpr size_t kLine = 64;
    const Block block = take_scratch(bytes);
    if (block.data) return {static_cast<T*>(block.data), Free{block.bytes}};
    void* const data = std::aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine);
    if (!data) throw std::bad_alloc();
    return {static_cast<T*>(data), Free{}};
  }

  Pointer data_;
  size_t capacity_ = 0;
};

}  // namespace fastvision
