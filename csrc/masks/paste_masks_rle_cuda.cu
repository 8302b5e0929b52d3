// paste_masks_rle of masks on a GPU: they are few numbers, and the result is text, so the host encodes them.
#include "common/cuda_library.cuh"
#include "masks/paste_masks_rle.h"

namespace fastvision::paste_masks {
namespace {

Tensor on_host(const Tensor& tensor) {
  Tensor host = torch::stable::empty(tensor.sizes(), tensor.scalar_type());
  return torch::stable::copy_(host, tensor);
}

std::tuple<Tensor, Tensor> paste_masks_rle(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                                           double threshold, std::string rule) {
  validate(kRleOp, masks, boxes, height, width, rule);
  return encode_all(on_host(masks), on_host(boxes), height, width, threshold, rule);
}

}  // namespace
}  // namespace fastvision::paste_masks

FV_CUDA_LIBRARY(m) { m.impl("paste_masks_rle", TORCH_BOX(&fastvision::paste_masks::paste_masks_rle)); }
