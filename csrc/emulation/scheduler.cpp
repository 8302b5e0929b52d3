#include "emulation/scheduler.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <sstream>
#include <utility>

namespace fastvision::emulation {
namespace {

struct Cancelled {};  // unwinds the threads that wait when the launch has failed

bool operator!=(const Site& a, const Site& b) { return a.line != b.line || std::strcmp(a.file, b.file) != 0; }

std::string hex(uint32_t mask) {
  std::ostringstream text;
  text << "0x" << std::hex << mask;
  return text.str();
}

}  // namespace

Scheduler& scheduler() {
  thread_local Scheduler instance;
  return instance;
}

void Scheduler::run(Launch& launch) {
  launch_ = &launch;
  blockDim = launch.block;
  gridDim = launch.grid;
  std::vector<uint64_t> blocks(uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z);
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  launch.random.shuffle(blocks);
  for (size_t i = 0; i < blocks.size() && !error_; ++i) {
    const uint64_t row = blocks[i] / launch.grid.x;
    start_block({static_cast<unsigned>(blocks[i] % launch.grid.x), static_cast<unsigned>(row % launch.grid.y),
                 static_cast<unsigned>(row / launch.grid.y)});
    resume(take());
  }
  launch_ = nullptr;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// In half of the blocks threads run in any order, in the others one warp runs ahead as far as it
// can: what breaks because lanes interleave and what breaks because warps drift apart are different
// faults.
void Scheduler::start_block(uint3 index) {
  const dim3 block = launch_->block;
  blockIdx = index;
  launch_->shared.fill();
  threads_.clear();
  for (unsigned z = 0; z < block.z; ++z) {
    for (unsigned y = 0; y < block.y; ++y) {
      for (unsigned x = 0; x < block.x; ++x) threads_.emplace_back().index = {x, y, z};
    }
  }
  live_ = threads_.size();
  const size_t warps = (live_ + warpSize - 1) / warpSize;
  live_lanes_.assign(warps, ~0u);
  if (live_ % warpSize != 0) live_lanes_.back() = (1u << live_ % warpSize) - 1;

  warp_by_warp_ = launch_->random.below(2) == 1;
  std::vector<size_t> order(warps);
  std::iota(order.begin(), order.end(), size_t{0});
  launch_->random.shuffle(order);
  for (const size_t warp : order) {
    const size_t end = std::min(live_, (warp + 1) * warpSize);
    for (size_t i = warp * warpSize; i < end; ++i) ready_.push_back(&threads_[i]);
  }
}

// The body of every fiber: one thread after another.
void Scheduler::work() {
  Scheduler& self = scheduler();
  for (;;) {
    self.run_thread();
    self.idle_.push_back(self.running_);
    self.resume(self.take());
  }
}

void Scheduler::run_thread() {
  std::exception_ptr error;
  try {
    launch_->thread();
  } catch (const Cancelled&) {
  } catch (...) {
    error = std::current_exception();
  }
  finish(*current_);
  if (error) fail(error);
}

// Those who waited only for this thread go on.
void Scheduler::finish(Thread& thread) {
  thread.state = State::kDone;
  thread.fiber = nullptr;
  --live_;
  const size_t index = static_cast<size_t>(&thread - threads_.data());
  const size_t first = index - index % warpSize;
  live_lanes_[index / warpSize] &= ~(1u << index % warpSize);
  release_barrier();
  for (size_t i = first; i < std::min(first + warpSize, threads_.size()); ++i) {
    const Thread& other = threads_[i];
    if (other.state == State::kAtWarp) release_warp(first, other.mask, other.operation);
  }
}

// Returns when somebody has released the current thread and its turn has come.
void Scheduler::wait() {
  resume(take());
  if (error_) throw Cancelled{};
}

// Goes on with `next`, or on the host's stack if there is none.
void Scheduler::resume(Thread* next) {
  Fiber* target = &host_;
  if (next != nullptr) {
    if (next->fiber == nullptr) {
      if (idle_.empty()) {
        idle_.push_back(fibers_.emplace_back(std::make_unique<Fiber>(&Scheduler::work)).get());
      }
      next->fiber = idle_.back();
      idle_.pop_back();
    }
    target = next->fiber;
    current_ = next;
    threadIdx = next->index;
  }
  Fiber* const self = std::exchange(running_, target);
  if (target != self) self->switch_to(*target);
}

// The next thread to run, at random among all or among those that became ready last; none when the
// block has ended.
Thread* Scheduler::take() {
  if (ready_.empty()) {
    if (live_ == 0) return nullptr;
    fail(std::make_exception_ptr(failure(deadlock())));
  }
  const size_t choices = warp_by_warp_ ? std::min<size_t>(ready_.size(), warpSize) : ready_.size();
  std::swap(ready_.back(), ready_[ready_.size() - 1 - launch_->random.below(choices)]);
  Thread* const next = ready_.back();
  ready_.pop_back();
  return next;
}

void Scheduler::ready(Thread& thread) {
  thread.state = State::kReady;
  ready_.push_back(&thread);
}

Count Scheduler::barrier(const char* name, bool predicate, Site site) {
  Thread& self = *current_;
  self.operation = name;
  self.site = site;
  self.value = predicate;
  self.state = State::kAtBarrier;
  ++at_barrier_;
  release_barrier();
  wait();
  return count_;
}

void Scheduler::release_barrier() {
  if (at_barrier_ == 0 || at_barrier_ < live_) return;
  const Thread* first = nullptr;
  Count count{};
  for (const Thread& thread : threads_) {
    if (thread.state != State::kAtBarrier) continue;
    if (first == nullptr) first = &thread;
    if (thread.site != first->site) return;
    ++count.threads;
    count.nonzero += thread.value != 0;
  }
  count_ = count;
  at_barrier_ = 0;
  for (Thread& thread : threads_) {
    if (thread.state == State::kAtBarrier) ready(thread);
  }
}

Exchange Scheduler::exchange(const char* name, uint32_t mask, uint64_t value, int source, Site site) {
  Thread& self = *current_;
  if ((mask >> lane() & 1) == 0) {
    std::ostringstream text;
    text << name << " (" << site.file << ':' << site.line << "): lane " << lane() << " is not in its own mask "
         << hex(mask);
    throw failure(text.str());
  }
  self.operation = name;
  self.site = site;
  self.mask = mask;
  self.value = value;
  self.source = source;
  self.state = State::kAtWarp;
  release_warp(static_cast<size_t>(&self - threads_.data()) - lane(), mask, name);
  wait();
  return self.result;
}

// `first`: index of the warp's lane 0.
void Scheduler::release_warp(size_t first, uint32_t mask, const char* operation) {
  const uint32_t lanes = mask & live_lanes_[first / warpSize];
  uint32_t nonzero = 0;
  for (int i = 0; i < warpSize; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    const Thread& thread = threads_[first + i];
    if (thread.state != State::kAtWarp || thread.mask != mask) return;
    if (std::strcmp(thread.operation, operation) != 0) return;
    nonzero |= (thread.value != 0 ? 1u : 0u) << i;
  }
  for (int i = 0; i < warpSize; ++i) {
    if ((lanes >> i & 1) == 0) continue;
    Thread& thread = threads_[first + i];
    const bool present = lanes >> thread.source & 1;
    thread.result = {present ? threads_[first + thread.source].value : kFreshPattern, lanes, nonzero};
    ready(thread);
  }
}

// Ends the launch: threads that have not started never will, the others are unwound one after
// another.
void Scheduler::fail(std::exception_ptr error) {
  if (!error_) error_ = std::move(error);
  ready_.clear();
  at_barrier_ = 0;
  for (Thread& thread : threads_) {
    if (thread.fiber != nullptr) {
      ready(thread);
    } else if (thread.state != State::kDone) {
      thread.state = State::kDone;
      --live_;
    }
  }
}

std::runtime_error Scheduler::failure(const std::string& text) const {
  std::ostringstream message;
  message << launch_->op << ": " << text << " in block (" << blockIdx.x << ", " << blockIdx.y << ", " << blockIdx.z
          << "), FASTVISION_EMULATION_SEED=" << launch_->seed << ", launch " << launch_->number;
  return std::runtime_error(message.str());
}

std::string Scheduler::deadlock() const {
  std::map<std::string, int> waiting;
  for (const Thread& thread : threads_) {
    if (thread.state == State::kDone) continue;
    std::ostringstream where;
    where << thread.operation;
    if (thread.state == State::kAtWarp) where << " of lanes " << hex(thread.mask);
    where << " (" << thread.site.file << ':' << thread.site.line << ')';
    ++waiting[where.str()];
  }
  std::string text;
  for (const auto& [where, threads] : waiting) {
    text += (text.empty() ? "" : ", ") + std::to_string(threads) + " at " + where;
  }
  return "deadlock: threads wait for each other, " + text + ",";
}

}  // namespace fastvision::emulation
