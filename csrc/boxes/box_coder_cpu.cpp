// encode_boxes and decode_boxes on the CPU: rows over threads.
#include <torch/csrc/stable/library.h>

#include "boxes/box_coder_ops.h"
#include "common/parallel.h"

namespace fastvision::box_coder {
namespace {

// Runs row(i) for each of `count` rows.
struct CpuRows {
  template <class Row>
  static void run(const char*, const Tensor&, int64_t count, const Row& row) {
    parallel_for(count, 2048, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) row(i);
    });
  }
};

}  // namespace
}  // namespace fastvision::box_coder

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  using namespace fastvision::box_coder;
  register_ops<CpuRows>(m);
}
