// What CUDA defines about indices, shuffles, votes, barriers, atomics and shared memory, checked
// against emulation. Exit status 0 if all holds; otherwise the lines that do not.
#include <cuda_runtime.h>

#include "common/host_device.h"
#include "common/shared_memory.cuh"

constexpr unsigned kAll = 0xffffffffu;

__global__ void visit(int* visits) {  // [grid threads]
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  visits[block * static_cast<int>(blockDim.x * blockDim.y * blockDim.z) + thread] += 1;
}

__global__ void shuffles(double* out) {  // [6, 32]
  const int lane = threadIdx.x;
  const double value = lane;
  out[0 * 32 + lane] = __shfl_sync(kAll, value, 9);
  out[1 * 32 + lane] = __shfl_sync(kAll, value, 9, 8);
  out[2 * 32 + lane] = __shfl_up_sync(kAll, value, 3, 8);
  out[3 * 32 + lane] = __shfl_down_sync(kAll, value, 3, 8);
  out[4 * 32 + lane] = __shfl_xor_sync(kAll, value, 8, 8);
  const unsigned parity = lane % 2 ? 0xaaaaaaaau : 0x55555555u;
  if (lane % 2) {
    out[5 * 32 + lane] = __shfl_sync(parity, value, 1);
  } else {
    out[5 * 32 + lane] = __shfl_sync(parity, value, 30);
  }
}

__global__ void votes(int* out) {  // [8]; 40 threads, of which the last 4 leave early
  if (threadIdx.x >= 36) return;
  const bool second_warp = threadIdx.x >= 32;
  const unsigned ballot = __ballot_sync(second_warp ? 0xfu : kAll, threadIdx.x % 4 == 1);
  const int any = __any_sync(second_warp ? 0xfu : kAll, threadIdx.x == 33);
  const int all = __all_sync(second_warp ? 0xfu : kAll, threadIdx.x > 31);
  if (threadIdx.x % 32 == 0) {
    out[0 + second_warp] = __popc(ballot);
    out[2 + second_warp] = any * 2 + all;
  }
  const int count = __syncthreads_count(threadIdx.x % 2);
  const int some = __syncthreads_or(threadIdx.x == 35);
  const int every = __syncthreads_and(threadIdx.x != 35);
  if (threadIdx.x == 0) {
    out[4] = count;
    out[5] = some;
    out[6] = every;
  }
}

__global__ void atomics(float* sum, int* largest, unsigned long long* bits, unsigned* claimed) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  atomicAdd(sum, 0.5f);
  atomicMax(largest, i * 37 % 64);
  atomicOr(bits, 1ull << (i % 64));
  if (atomicCAS(claimed, 0u, 7u) == 0u) atomicAdd(claimed, 1u);
}

__global__ void sum_pairs(const int* values, int* sums) {
  FV_SHARED(int, left);
  FV_SHARED(int, right, [2][1]);
  if (threadIdx.x == 0) left = values[2 * blockIdx.x];
  if (threadIdx.x == 33) right[1][0] = values[2 * blockIdx.x + 1];
  __syncthreads();
  if (threadIdx.x == 63) sums[blockIdx.x] = left + right[1][0];
}

__global__ void read_fresh(float* out, double* dynamic_out) {
  FV_SHARED(float, fresh, [2]);
  FV_DYNAMIC_SHARED(double, dynamic);
  out[blockIdx.x] = fresh[1];
  dynamic_out[blockIdx.x] = dynamic[0];
  fresh[1] = 1.0f;
  dynamic[0] = 1.0;
}

__global__ void record_order(int* next, int* order) {
  order[atomicAdd(next, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
}

#ifdef FASTVISION_EMULATION

#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

using fastvision::emulation::run_grid;

int failures = 0;

#define CHECK(condition) \
  if (!(condition)) std::printf("line %d: %s\n", __LINE__, #condition), ++failures

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void check_shuffles() {
  std::vector<double> out(6 * 32);
  run_grid("shuffles", 1, 32, 0, [&] { shuffles(out.data()); });
  for (int lane = 0; lane < 32; ++lane) {
    CHECK(out[0 * 32 + lane] == 9);
    CHECK(out[1 * 32 + lane] == lane / 8 * 8 + 1);
    CHECK(out[2 * 32 + lane] == (lane % 8 < 3 ? lane : lane - 3));
    CHECK(out[3 * 32 + lane] == (lane % 8 > 4 ? lane : lane + 3));
    CHECK(out[4 * 32 + lane] == (lane / 8 % 2 ? lane - 8 : lane));
    CHECK(out[5 * 32 + lane] == (lane % 2 ? 1 : 30));
  }
}

void check_votes() {
  std::vector<int> out(8);
  run_grid("votes", 1, 40, 0, [&] { votes(out.data()); });
  CHECK(out == (std::vector<int>{8, 1, 0, 3, 18, 1, 0, 0}));
}

void check_atomics() {
  float sum = 0;
  int largest = -1;
  unsigned long long bits = 0;
  unsigned claimed = 0;
  run_grid("atomics", 5, 20, 0, [&] { atomics(&sum, &largest, &bits, &claimed); });
  CHECK(sum == 50.0f && largest == 63 && bits == ~0ull && claimed == 8);
}

void check_shared_memory() {
  std::vector<float> fresh(3);
  std::vector<double> dynamic(3);
  run_grid("read_fresh", 3, 1, 8, [&] { read_fresh(fresh.data(), dynamic.data()); });
  for (int i = 0; i < 3; ++i) CHECK(fresh[i] != fresh[i] && dynamic[i] != dynamic[i]);
  const std::vector<int> values{1, 2, 30, 40};
  std::vector<int> sums(2);
  run_grid("sum_pairs", 2, 64, 0, [&] { sum_pairs(values.data(), sums.data()); });
  CHECK(sums == (std::vector<int>{3, 70}));
}

void check_errors() {
  const std::string limits = error_of([] { run_grid("big", 1, 1025, 0, [] {}); });
  CHECK(contains(limits, "big: CUDA error: invalid configuration"));
  const std::string mask = error_of([] { run_grid("vote", 1, 32, 0, [] { __syncwarp(1); }); });
  CHECK(contains(mask, "not in its own mask 0x1"));
  const std::string deadlock =
      error_of([] { run_grid("half", 1, 32, 0, [] { threadIdx.x < 16 ? __syncwarp() : __syncthreads(); }); });
  CHECK(contains(deadlock, "half: deadlock") && contains(deadlock, "16 at __syncwarp of lanes"));
  const std::string inner = error_of([] {
    run_grid("throws", 4, 64, 0, [] {
      __syncthreads();
      if (threadIdx.x == 7) throw std::runtime_error("from a kernel");
      __syncthreads();
    });
  });
  CHECK(inner == "from a kernel");
  const std::string nested = error_of([] { run_grid("outer", 1, 1, 0, [] { run_grid("inner", 1, 1, 0, [] {}); }); });
  CHECK(contains(nested, "inner: launched from inside a kernel"));
  CHECK(error_of([] { run_grid("empty", 0, 32, 0, [] { throw 1; }); }).empty());
}

std::vector<int> order() {
  std::vector<int> order(64);
  int next = 0;
  run_grid("record_order", 4, 16, 0, [&] { record_order(&next, order.data()); });
  return order;
}

void check_host_threads() {
  std::vector<std::thread> hosts;
  std::vector<std::vector<int>> visits(4, std::vector<int>(64 * 64));
  for (std::vector<int>& mine : visits) {
    hosts.emplace_back([&mine] { run_grid("visit", 64, 64, 0, [&] { visit(mine.data()); }); });
  }
  for (std::thread& host : hosts) host.join();
  for (const std::vector<int>& mine : visits) CHECK(mine == std::vector<int>(64 * 64, 1));
}

}  // namespace

int main() {
  std::vector<int> visits(2 * 3 * 4 * 3 * 5 * 2);
  run_grid("visit", dim3(2, 3, 4), dim3(3, 5, 2), 0, [&] { visit(visits.data()); });
  CHECK(visits == std::vector<int>(visits.size(), 1));
  check_shuffles();
  check_votes();
  check_atomics();
  check_shared_memory();
  check_errors();
  check_shuffles();  // a failed launch leaves nothing behind
  check_host_threads();
  CHECK(order() != order());
  CHECK(min(2, 3.5f) == 2.0f && max(1, 4ll) == 4 && max(NAN, 1.0f) == 1.0f && min(1.0, NAN) == 1.0);
  CHECK(__ffs(0) == 0 && __ffs(8) == 4 && __clz(0) == 32 && __clz(1) == 31 && __clzll(1) == 63);
  CHECK(__int_as_float(__float_as_int(1.5f)) == 1.5f && alignof(float4) == 16);

  const auto start = std::chrono::steady_clock::now();
  run_grid("wide", 400, 256, 0, [] { __syncthreads(); });
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  std::printf("102400 threads and a barrier: %.3f s\n", elapsed.count());
  return failures == 0 ? 0 : 1;
}

#endif
