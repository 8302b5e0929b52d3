// Atomics, for the types CUDA has them for. Only one thread of a launch runs at a time and none is
// interrupted, so plain reads and writes are atomic.
#pragma once

#include <type_traits>

namespace fastvision::emulation {

template <class T, class... Allowed>
using AnyOf = std::enable_if_t<(std::is_same_v<T, Allowed> || ...), T>;
template <class T>
using Addend = AnyOf<T, int, unsigned, unsigned long long, float, double>;
template <class T>
using Integer = AnyOf<T, int, unsigned, long long, unsigned long long>;
template <class T>
using Word = AnyOf<T, int, unsigned, unsigned long long, float>;
template <class T>
using Comparable = AnyOf<T, unsigned short, int, unsigned, unsigned long long>;
template <class T>
struct Same {  // keeps an argument out of deduction, so that atomicAdd(&sum, 1) works on a float
  using type = T;
};
template <class T>
using Value = typename Same<T>::type;

template <class T>
T exchange(T* address, T value) {
  const T old = *address;
  *address = value;
  return old;
}

template <class T>
Addend<T> atomicAdd(T* address, Value<T> value) {
  return exchange<T>(address, *address + value);
}
template <class T>
AnyOf<T, int, unsigned> atomicSub(T* address, Value<T> value) {
  return exchange<T>(address, *address - value);
}
template <class T>
Integer<T> atomicMax(T* address, Value<T> value) {
  return exchange<T>(address, *address > value ? *address : value);
}
template <class T>
Integer<T> atomicMin(T* address, Value<T> value) {
  return exchange<T>(address, *address < value ? *address : value);
}
template <class T>
Integer<T> atomicOr(T* address, Value<T> value) {
  return exchange<T>(address, *address | value);
}
template <class T>
Integer<T> atomicAnd(T* address, Value<T> value) {
  return exchange<T>(address, *address & value);
}
template <class T>
Word<T> atomicExch(T* address, Value<T> value) {
  return exchange<T>(address, value);
}
template <class T>
Comparable<T> atomicCAS(T* address, Value<T> expected, Value<T> value) {
  return exchange<T>(address, *address == expected ? value : *address);
}

}  // namespace fastvision::emulation

using fastvision::emulation::atomicAdd;
using fastvision::emulation::atomicAnd;
using fastvision::emulation::atomicCAS;
using fastvision::emulation::atomicExch;
using fastvision::emulation::atomicMax;
using fastvision::emulation::atomicMin;
using fastvision::emulation::atomicOr;
using fastvision::emulation::atomicSub;
