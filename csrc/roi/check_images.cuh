// FASTVISION_CHECK=1: also on CUDA, a roi of an image that does not exist raises. The check waits for the device, so it
// is for finding mistakes, not for production, where such a roi gives zeros.
#pragma once

#include "common/check_mode.h"
#include "common/launch.cuh"
#include "roi/rois.h"

namespace fastvision::roi {

// rois [count, columns]; first: smallest index of a roi without an image, or count
template <class T>
__global__ void find_roi_without_image(int64_t batch, const T* rois, int64_t columns, int64_t count,
                                       unsigned long long* first) {
  const int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k < count && image_of(batch, rois + columns * k) < 0) atomicMin(first, static_cast<unsigned long long>(k));
}

// rois: contiguous values of T
template <class T>
void check_images(const char* op, int64_t batch, const Tensor& rois) {
  const int64_t count = rois.size(0);
  if (count == 0 || !checking()) return;
  const Tensor first = torch::stable::full({1}, double(count), ScalarType::Long, std::nullopt, rois.device());
  int64_t* address = first.mutable_data_ptr<int64_t>();
  launch(op, &find_roi_without_image<T>, {blocks_for(count, 256), 256}, rois, batch, rois.const_data_ptr<T>(),
         rois.size(1), count, reinterpret_cast<unsigned long long*>(address));
  const int64_t found = read_back(op, rois, address);
  if (found < count) {
    fail<std::out_of_range>(op, "expected rois[", found, ", 0], the image of the roi, in [0, ", batch, ")");
  }
}

}  // namespace fastvision::roi
