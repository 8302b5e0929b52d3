// Stores past the caches, for outputs that no longer are in them when they are read: they do not read the lines they
// overwrite, a third of the bytes that an op moves which writes as much as it reads.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "common/cache_size.h"
#include "common/simd.h"

namespace fastvision {

// The writes of one thread, in place for all others when it ends. If it is false, the thread is to write as usual.
class Stream {
 public:
  // Bytes of which little is left in the caches; 0 where there are no such stores. With two threads that share 32 MB of
  // cache, what comes to 16 MB takes 1.2 times as long if it is written so and read back, and from 24 MB on 0.8 to 0.95
  // times.
  static int64_t large() {
    static const int64_t bytes = kExists ? std::max(last_cache_bytes() / 4 * 3, int64_t{24} << 20) : 0;
    return bytes;
  }

  // bytes: all that the op reads and writes. run: bytes written one after the other, from the start of a line on; the
  // lines that two short ones share cost more than the others gain.
  Stream(int64_t bytes, int64_t run) : on_(kExists && bytes >= large() && (run % kLine == 0 || run >= 2048)) {}
  ~Stream() {
#ifdef __SSE2__
    if (on_) _mm_sfence();
#endif
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  explicit operator bool() const { return on_; }

  // to: aligned as the register. The instruction is spelled out where an intrinsic would be of one instruction set,
  // which what inlines this is compiled for but this is not.
  template <int kBytes, class T, class Part>
  [[gnu::always_inline]] void store(T* to, Part value) const {
    typedef T Aligned __attribute__((vector_size(kBytes), may_alias));
    auto& target = *reinterpret_cast<Aligned*>(to);
#if defined(__clang__)
    __builtin_nontemporal_store(value, &target);
#elif defined(__SSE2__)
    if constexpr (kBytes == 16) {
      asm("movntps %1, %0" : "=m"(target) : "x"(value));
    } else {
      asm("vmovntps %1, %0" : "=m"(target) : "v"(value));
    }
#else
    target = value;
#endif
  }

  // to[i] = at(registers, i), i < count, where `registers` may have one lane; in whole lines, as parts of one cost more
  // than plain stores
  template <int kBytes, class T, class At>
  [[gnu::always_inline]] void write(int64_t count, const At& at, T* to) const {
    using Registers = Vector<T, kBytes>;
    const int64_t head = std::min(int64_t(-reinterpret_cast<uintptr_t>(to) % uint64_t(kLine) / sizeof(T)), count);
    int64_t i = 0;
    for (; i < head; ++i) to[i] = at(Single<T>{}, i);
    for (; i + kVectorLanes<T> <= count; i += kVectorLanes<T>) {
#pragma GCC unroll 4
      for (int part = 0; part < Registers::kParts; ++part) {
        const int64_t lane = i + part * Registers::kPartLanes;
        store<kBytes>(to + lane, at(Registers{}, lane));
      }
    }
    for (; i < count; ++i) to[i] = at(Single<T>{}, i);
  }

  // to[i] = from[i], `from` in a cache
  template <int kBytes, class T>
  [[gnu::always_inline]] void copy(const T* from, int64_t count, T* to) const {
    write<kBytes>(
        count,
        [from](auto registers, int64_t i) __attribute__((always_inline)) { return registers.load_part(from + i); }, to);
  }

  template <int kBytes, class T>
  [[gnu::always_inline]] void clear(int64_t count, T* to) const {
    write<kBytes>(
        count,
        [](auto registers, int64_t) __attribute__((always_inline)) { return typename decltype(registers)::Part{}; },
        to);
  }

 private:
  static constexpr int64_t kLine = 64;

#if defined(__SSE2__) && !defined(__SANITIZE_ADDRESS__)  // which does not see what instructions spelled out write
  static constexpr bool kExists = true;
#else
  static constexpr bool kExists = false;
#endif

  const bool on_;
};

}  // namespace fastvision
