// Scratch memory.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#include "common/free_blocks.h"

namespace fastvision {

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
    size_t block = 0;  // bytes, of a large one

    void operator()(T* pointer) const {
      if (block > 0) {
        give_back(Block{pointer, block});
      } else {
        std::free(pointer);
      }
    }
  };
  using Pointer = std::unique_ptr<T[], Free>;

  static Pointer allocate(size_t bytes) {
    constexpr size_t kLine = 64;
    const Block block = bytes < kLarge ? Block{} : used_or_fresh_block(bytes);
    if (block.data) return {static_cast<T*>(block.data), Free{block.bytes}};
    void* const data = std::aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine);
    if (!data) throw std::bad_alloc();
    return {static_cast<T*>(data), Free{}};
  }

  Pointer data_;
  size_t capacity_ = 0;
};

}  // namespace fastvision
