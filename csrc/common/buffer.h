// Uninitialised scratch memory on cache-line boundaries.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

namespace fastvision {

// Grows, never shrinks; the contents are lost when it grows.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count) { reserve(count); }

  void reserve(size_t count) {
    if (count <= capacity_) return;
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    capacity_ = count;
  }

  T* data() const { return data_.get(); }
  T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(void* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T[], Free> data_;
  size_t capacity_ = 0;
};

}  // namespace fastvision
