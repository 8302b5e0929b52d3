// A stack that can be left and resumed: what a CUDA thread is in emulation.
#pragma once

#include <ucontext.h>

#include <cstddef>

namespace fastvision::emulation {

class Fiber {
 public:
  Fiber() = default;               // the stack the caller is on
  explicit Fiber(void (*body)());  // its own: starts at the first switch to it, never returns
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Leaves this fiber, the running one, for `next`; returns when something switches back.
  void switch_to(Fiber& next);

 private:
  static void enter();
  void arrived();

  ucontext_t context_{};
  void (*body_)() = nullptr;
  void* mapping_ = nullptr;      // guard page, then the stack
  const void* stack_ = nullptr;  // lowest usable address
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's own stack, saved while this fiber is left
};

}  // namespace fastvision::emulation
