#include "emulation/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastvision::emulation {
namespace {

// Pages are mapped when touched, so room costs nothing; AddressSanitizer's redzones make frames
// several times larger.
constexpr size_t kStackBytes = 256 * 1024;

thread_local Fiber* left = nullptr;     // the fiber of the switch under way
thread_local Fiber* entered = nullptr;  // and the one it goes to

}  // namespace

Fiber::Fiber(void (*body)()) : body_(body), stack_bytes_(kStackBytes) {
  const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  mapping_ = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapping_ == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapping_, guard, PROT_NONE);
  void* const stack = static_cast<char*>(mapping_) + guard;
  stack_ = stack;
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = kStackBytes;
  makecontext(&context_, &Fiber::enter, 0);
  // Only makecontext needs the size. AddressSanitizer would clear that many bytes of shadow at
  // every switch.
  context_.uc_stack.ss_size = 0;
}

Fiber::~Fiber() {
  if (mapping_ == nullptr) return;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack_, stack_bytes_);  // frames that will never be left
#endif
  munmap(mapping_, static_cast<size_t>(sysconf(_SC_PAGESIZE)) + kStackBytes);
}

void Fiber::switch_to(Fiber& next) {
  left = this;
  entered = &next;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_stack_, next.stack_, next.stack_bytes_);
#endif
  swapcontext(&context_, &next.context_);
  arrived();
}

void Fiber::enter() {
  Fiber& self = *entered;
  self.arrived();
  self.body_();
}

// Also learns the bounds of the stack just left: for a thread's own stack there is no other way.
void Fiber::arrived() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fake_stack_, &left->stack_, &left->stack_bytes_);
#endif
}

}  // namespace fastvision::emulation
