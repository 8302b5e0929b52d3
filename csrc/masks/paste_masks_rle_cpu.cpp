// paste_masks_rle on the CPU.
#include <torch/csrc/stable/library.h>

#include "masks/paste_masks_rle.h"

namespace fastvision::paste_masks {
namespace {

std::tuple<Tensor, Tensor> paste_masks_rle(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                                           double threshold, std::string rule) {
  return encode_all(masks, boxes, height, width, threshold, rule);
}

}  // namespace
}  // namespace fastvision::paste_masks

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("paste_masks_rle", TORCH_BOX(&fastvision::paste_masks::paste_masks_rle));
}
