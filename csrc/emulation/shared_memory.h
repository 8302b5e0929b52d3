// The shared memory of the running block. Every array is a heap allocation of exactly its size, so
// that AddressSanitizer sees the first byte beyond it.
#pragma once

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "emulation/grid.h"

namespace fastvision::emulation {

class SharedArray {
 public:
  SharedArray(const void* site, size_t bytes, size_t alignment)
      : site_(site), bytes_(bytes), alignment_(std::align_val_t{std::max<size_t>(alignment, 16)}) {
    if (bytes_ > 0) data_ = ::operator new(bytes_, alignment_);
    fill();
  }
  SharedArray(SharedArray&& other) noexcept
      : site_(other.site_), data_(other.data_), bytes_(other.bytes_), alignment_(other.alignment_) {
    other.data_ = nullptr;
  }
  ~SharedArray() { ::operator delete(data_, alignment_); }

  void fill() {
    char* const bytes = static_cast<char*>(data_);
    for (size_t i = 0; i < bytes_; i += sizeof(kFreshPattern)) {
      std::memcpy(bytes + i, &kFreshPattern, std::min(sizeof(kFreshPattern), bytes_ - i));
    }
  }
  const void* site() const { return site_; }
  void* data() const { return data_; }

 private:
  const void* site_;
  void* data_ = nullptr;
  size_t bytes_;
  std::align_val_t alignment_;
};

class SharedMemory {
 public:
  explicit SharedMemory(size_t dynamic_bytes) { arrays_.emplace_back(nullptr, dynamic_bytes, 16); }

  void* dynamic() const { return arrays_.front().data(); }

  // The array of this call site, made when the first thread of the launch gets there.
  void* at(const void* site, size_t bytes, size_t alignment) {
    for (const SharedArray& array : arrays_) {
      if (array.site() == site) return array.data();
    }
    return arrays_.emplace_back(site, bytes, alignment).data();
  }

  void fill() {
    for (SharedArray& array : arrays_) array.fill();
  }

 private:
  std::vector<SharedArray> arrays_;  // the dynamic one first
};

}  // namespace fastvision::emulation
