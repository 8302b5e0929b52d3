// Which thread of a block runs next.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "emulation/fiber.h"
#include "emulation/grid.h"
#include "emulation/random.h"
#include "emulation/shared_memory.h"

namespace fastvision::emulation {

enum class State { kReady, kAtBarrier, kAtWarp, kDone };  // ready: running, or could be

struct Thread {
  uint3 index;
  State state = State::kReady;
  Fiber* fiber = nullptr;  // none before it has started and after it has ended
  // While it waits: at what, where, with whom and with which value.
  const char* operation = nullptr;
  Site site{};
  uint32_t mask = 0;
  uint64_t value = 0;
  int source = 0;
  Exchange result{};
};

struct Launch {
  const char* op;
  dim3 grid, block;
  const std::function<void()>& thread;
  uint64_t seed, number;
  SharedMemory shared;
  Random random;
};

// The threads of one block at a time. Whoever stops running picks the next thread at random and
// switches to it; a thread that has not started takes over the stack of one that has just ended, so
// a kernel without barriers runs on a single fiber.
class Scheduler {
 public:
  void run(Launch& launch);
  Count barrier(const char* name, bool predicate, Site site);
  Exchange exchange(const char* name, uint32_t mask, uint64_t value, int source, Site site);
  int lane() const { return static_cast<int>(current_ - threads_.data()) % warpSize; }
  SharedMemory& shared() { return launch_->shared; }
  bool busy() const { return launch_ != nullptr; }

 private:
  static void work();
  void start_block(uint3 index);
  void run_thread();
  void finish(Thread& thread);
  void wait();
  void resume(Thread* next);
  Thread* take();
  void ready(Thread& thread);
  void release_barrier();
  void release_warp(size_t first, uint32_t mask, const char* operation);
  void fail(std::exception_ptr error);
  std::runtime_error failure(const std::string& text) const;
  std::string deadlock() const;

  Launch* launch_ = nullptr;
  std::vector<Thread> threads_;       // of the block, in CUDA's linear order
  std::vector<uint32_t> live_lanes_;  // of each warp: those that have not ended
  std::vector<Thread*> ready_;
  size_t live_ = 0;
  size_t at_barrier_ = 0;
  bool warp_by_warp_ = false;
  Count count_{};
  std::exception_ptr error_;

  Fiber host_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = &host_;
  Thread* current_ = nullptr;
};

Scheduler& scheduler();  // of the calling host thread

}  // namespace fastvision::emulation
