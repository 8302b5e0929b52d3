#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace fastvision::emulation {

// splitmix64 (Steele, Lea, Flood 2014): the same order from the same seed on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  size_t below(size_t bound) { return static_cast<size_t>(next() % bound); }

  template <class T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace fastvision::emulation
