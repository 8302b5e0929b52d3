#include "emulation/grid.h"

#include <atomic>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>

#include "emulation/scheduler.h"

namespace fastvision::emulation {
namespace {

// What a launch on a GPU of compute capability 9.0 would refuse.
void check_limits(const char* op, dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool possible = threads >= 1 && threads <= 1024 && block.z <= 64 && grid.x <= 0x7FFFFFFF && grid.y <= 0xFFFF &&
                        grid.z <= 0xFFFF && shared_bytes <= 227 * 1024;
  if (possible) return;
  std::ostringstream text;
  text << op << ": CUDA error: invalid configuration argument: grid (" << grid.x << ", " << grid.y << ", " << grid.z
       << "), block (" << block.x << ", " << block.y << ", " << block.z << "), " << shared_bytes
       << " bytes of shared memory";
  throw std::runtime_error(text.str());
}

}  // namespace

void run_grid(const char* op, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  static std::atomic<uint64_t> launches{0};
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  check_limits(op, grid, block, shared_bytes);
  if (scheduler().busy()) {
    throw std::logic_error(std::string(op) + ": launched from inside a kernel");
  }
  const char* const text = std::getenv("FASTVISION_EMULATION_SEED");
  const uint64_t seed = text == nullptr ? 0 : std::strtoull(text, nullptr, 0);
  const uint64_t number = launches++;
  const Random random(seed << 32 ^ number);
  Launch launch{op, grid, block, thread, seed, number, SharedMemory(shared_bytes), random};
  scheduler().run(launch);
}

Count block_barrier(const char* name, bool predicate, Site site) { return scheduler().barrier(name, predicate, site); }

Exchange warp_exchange(const char* name, uint32_t mask, uint64_t value, int source, Site site) {
  return scheduler().exchange(name, mask, value, source, site);
}

int lane() { return scheduler().lane(); }

void* static_shared(const void* site, size_t bytes, size_t alignment) {
  return scheduler().shared().at(site, bytes, alignment);
}

void* dynamic_shared() { return scheduler().shared().dynamic(); }

}  // namespace fastvision::emulation
