// A few numbers that are read or written at once.
#pragma once

namespace fastvision {

template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Pack {
  T of[kCount];
};

}  // namespace fastvision
