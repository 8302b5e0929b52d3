// One source, three instruction sets: the body is compiled for AVX-512, AVX2 and the baseline, and the widest the
// processor has is chosen at run time. Loops inside vectorise by themselves; no intrinsics, no second spelling.
//
// This is `target` plus `flatten` on a wrapper rather than `target_clones`, because target_clones does not work on
// templates and its resolvers run before a sanitizer is ready.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

namespace fastvision {

// 64 bytes of numbers: one AVX-512 register, two of AVX2, four of SSE or NEON.
template <class T>
inline constexpr int kVectorLanes = 64 / int(sizeof(T));

// `count` rounded up: a rest of single numbers would cost short rows more than what lies beyond them.
template <class T>
constexpr int64_t whole_vectors(int64_t count) {
  return (count + kVectorLanes<T> - 1) / kVectorLanes<T> * kVectorLanes<T>;
}

// A register of kBytes. Aligned as T in memory: callers promise no more, and an unaligned move of aligned data costs
// nothing.
template <class T, int kBytes>
struct Register {
  typedef T Raw __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
};

namespace simd_detail {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// float16 by the processors that have registers of 32 bytes or more. An instruction spelled out: GCC 12 converts
// vectors of _Float16 one by one, and an intrinsic is of one instruction set, which what inlines this is compiled for
// but this is not. Clang checks the size of a register here already.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
inline constexpr bool kConvertsHalf = true;
#define FV_CONVERT_HALF(...) asm(__VA_ARGS__)
#else
inline constexpr bool kConvertsHalf = false;
#define FV_CONVERT_HALF(...)
#endif

// float16 or bfloat16 numbers in float32. Conversions one by one come to the same where the compiler finds out, as it
// does for a whole Vector.
template <class S, int kBytes>
[[gnu::always_inline]] inline auto widened(const S* source) {
  using Narrow = typename Register<uint16_t, kBytes / 2>::Raw;
  using Bits = typename Register<uint32_t, kBytes>::Raw;
  using Integers = typename Register<int32_t, kBytes>::Raw;
  using Floats = typename Register<float, kBytes>::Raw;
  static_assert(std::is_same_v<S, Half> || std::is_same_v<S, BFloat16>);
  if constexpr (std::is_same_v<S, Half> && kConvertsHalf && kBytes >= 32) {
    Floats value{};
    FV_CONVERT_HALF("vcvtph2ps %1, %0" : "=v"(value) : "m"(*reinterpret_cast<const Narrow*>(source)));
    return value;
  } else {
    const Bits bits = __builtin_convertvector(*reinterpret_cast<const Narrow*>(source), Bits);
    if constexpr (std::is_same_v<S, BFloat16>) {
      return Floats(bits << 16);
    } else {
      constexpr uint32_t kBias = (127 - 15) << 23;  // between the exponents of the two, which have 8 and 5 bits
      const Bits sign = (bits & 0x8000) << 16, magnitude = bits & 0x7fff;
      const Bits normal = (magnitude << 13) + kBias;
      const Floats subnormal = __builtin_convertvector(Integers(magnitude), Floats) * 0x1p-24f;
      const Bits finite = magnitude < 0x400 ? Bits(subnormal) : normal;
      return Floats(sign | (magnitude >= 0x7c00 ? normal + kBias : finite));
    }
  }
}

// The way back, to the nearest, or even.
template <int kBytes, class Floats>
[[gnu::always_inline]] inline void narrow(Floats value, Half* target) {
  if constexpr (kConvertsHalf && kBytes >= 32) {
    using Narrow = typename Register<uint16_t, kBytes / 2>::Raw;
    FV_CONVERT_HALF("vcvtps2ph $0, %1, %0" : "=m"(*reinterpret_cast<Narrow*>(target)) : "v"(value));
  } else {
    for (int l = 0; l < kBytes / 4; ++l) target[l] = static_cast<Half>(value[l]);
  }
}

template <int kBytes, class Floats>
[[gnu::always_inline]] inline void narrow(Floats value, BFloat16* target) {
  using Narrow = typename Register<uint16_t, kBytes / 2>::Raw;
  using Bits = typename Register<uint32_t, kBytes>::Raw;
  constexpr uint32_t kNan = 0x7fc0;
  const Bits bits = Bits(value), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  *reinterpret_cast<Narrow*>(target) = __builtin_convertvector(value == value ? rounded : Bits{} + kNan, Narrow);
}

}  // namespace simd_detail

#undef FV_CONVERT_HALF

// That many numbers side by side, with the arithmetic a weighted sum needs, as registers of kBytes each. Where they are
// wider than the processor's, sums live in memory; in memory all are the same, see `as`.
template <class T, int kBytes = 64>
struct [[gnu::may_alias]] Vector {  // as other vectors, see `as`
  using Part = typename Register<T, kBytes>::Raw;
  static constexpr int kParts = 64 / kBytes, kPartLanes = kBytes / int(sizeof(T));
  Part parts[kParts]{};

  [[gnu::always_inline]] T* values() { return reinterpret_cast<T*>(parts); }
  [[gnu::always_inline]] const T* values() const { return reinterpret_cast<const T*>(parts); }

  // this += weight * other
  [[gnu::always_inline]] void add(T weight, const Vector& other) {
    for (int i = 0; i < kParts; ++i) parts[i] += weight * other.parts[i];
  }

  // this += a * b, lane by lane
  [[gnu::always_inline]] void add(const Vector& a, const Vector& b) {
    for (int i = 0; i < kParts; ++i) parts[i] += a.parts[i] * b.parts[i];
  }

  [[gnu::always_inline]] T sum() const {
    T total = 0;
    for (int l = 0; l < kVectorLanes<T>; ++l) total += parts[l / kPartLanes][l % kPartLanes];
    return total;
  }

  // One register; float16 and bfloat16 are widened to T.
  template <class S>
  [[gnu::always_inline]] static Part load_part(const S* source) {
    if constexpr (std::is_same_v<T, S>) {
      return *reinterpret_cast<const Part*>(source);
    } else {
      static_assert(std::is_same_v<T, float>);
      return simd_detail::widened<S, kBytes>(source);
    }
  }

  template <class S>
  [[gnu::always_inline]] static void store_part(S* target, Part value) {
    if constexpr (std::is_same_v<T, S>) {
      *reinterpret_cast<Part*>(target) = value;
    } else {
      static_assert(std::is_same_v<T, float>);
      simd_detail::narrow<kBytes>(value, target);
    }
  }

  template <class S>
  [[gnu::always_inline]] static Vector load(const S* source) {
    Vector vector;
    if constexpr (std::is_same_v<T, S>) {
      for (int i = 0; i < kParts; ++i) vector.parts[i] = load_part(source + i * kPartLanes);
    } else {
      for (int l = 0; l < kVectorLanes<T>; ++l)
        vector.parts[l / kPartLanes][l % kPartLanes] = static_cast<T>(source[l]);
    }
    return vector;
  }

  template <class S>
  [[gnu::always_inline]] void store(S* target) const {
    if constexpr (std::is_same_v<T, S>) {
      for (int i = 0; i < kParts; ++i) reinterpret_cast<Part*>(target)[i] = parts[i];
    } else {
      for (int l = 0; l < kVectorLanes<T>; ++l) target[l] = static_cast<S>(parts[l / kPartLanes][l % kPartLanes]);
    }
  }
};

// One number, where Vector has registers of several.
template <class T>
struct Single {
  using Part = T;
  static constexpr int kPartLanes = 1;

  template <class S>
  [[gnu::always_inline]] static T load_part(const S* source) {
    return static_cast<T>(*source);
  }
};

// `vectorized` gives it to bodies that want to know.
template <int kBytes>
using RegisterBytes = std::integral_constant<int, kBytes>;

// The same vectors, in registers of the processor a kernel is compiled for.
template <class T, int kBytes>
[[gnu::always_inline]] inline Vector<T, kBytes>* as(RegisterBytes<kBytes>, Vector<T>* vectors) {
  static_assert(sizeof(Vector<T, kBytes>) == sizeof(Vector<T>));
  return reinterpret_cast<Vector<T, kBytes>*>(vectors);
}
template <class T, int kBytes>
[[gnu::always_inline]] inline const Vector<T, kBytes>* as(RegisterBytes<kBytes>, const Vector<T>* vectors) {
  return reinterpret_cast<const Vector<T, kBytes>*>(vectors);
}

namespace simd_detail {
template <int kBytes, class Body>
[[gnu::always_inline]] inline void call(const Body& body) {
  if constexpr (std::is_invocable_v<const Body&, RegisterBytes<kBytes>>) {
    body(RegisterBytes<kBytes>{});
  } else {
    body();
  }
}
}  // namespace simd_detail

#if defined(__x86_64__) && defined(__GNUC__)

enum class Isa { kBaseline, kAvx2, kAvx512 };

inline Isa detect_isa() {
  __builtin_cpu_init();
  // torch's variable; what a processor cannot do, it does not allow
  const char* const limit = std::getenv("ATEN_CPU_CAPABILITY");
  const auto limited_to = [limit](const char* name) { return limit && std::strcmp(limit, name) == 0; };
  if (limited_to("default")) return Isa::kBaseline;
  if (!limited_to("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
#ifdef __clang__  // which does not know the name, and no processor with AVX2 lacks it
  const bool half = true;
#else
  const bool half = __builtin_cpu_supports("f16c");
#endif
  return half && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Isa::kAvx2 : Isa::kBaseline;
}

inline Isa isa() {
  static const Isa found = detect_isa();
  return found;
}

// As torch.backends.cpu.get_cpu_capability() says it.
inline const char* cpu_capability() {
  return isa() == Isa::kAvx512 ? "AVX512" : isa() == Isa::kAvx2 ? "AVX2" : "DEFAULT";
}

namespace simd_detail {
template <class Body>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512"),
               flatten, noinline)) void
run_avx512(const Body& body) {
  call<64>(body);
}
template <class Body>
__attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"), flatten, noinline)) void run_avx2(const Body& body) {
  call<32>(body);
}
template <class Body>
__attribute__((noinline)) void run_baseline(const Body& body) {
  call<16>(body);
}
}  // namespace simd_detail

// Of the widest vector that pays: on the baseline two of 16.
inline int vector_bytes() { return isa() == Isa::kAvx512 ? 64 : 32; }

// Runs body(), or body(RegisterBytes<..>), compiled for this processor. Everything body calls must be inlinable
// (headers, no parallel_for inside).
template <class Body>
void vectorized(const Body& body) {
  switch (isa()) {
    case Isa::kAvx512: return simd_detail::run_avx512(body);
    case Isa::kAvx2: return simd_detail::run_avx2(body);
    default: return simd_detail::run_baseline(body);
  }
}

#else  // other processors: the compiler's own baseline vectors (NEON on Arm)

inline const char* cpu_capability() { return "DEFAULT"; }
inline int vector_bytes() { return 32; }

template <class Body>
void vectorized(const Body& body) {
  simd_detail::call<16>(body);
}

#endif

}  // namespace fastvision
