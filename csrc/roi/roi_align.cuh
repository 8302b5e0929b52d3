// What CUDA offers roi_align_ops.h.
#pragma once

#include "roi/roi_align_ops.h"

namespace fastvision::roi_align {

struct Cuda {
  static void pool(const char* op, const Params& p, const Tensors& maps, const Tensor& rois, Tensor& output);
  static void unpool(const char* op, const Params& p, const Tensor& grad, const Tensor& rois, Tensors& maps);
  static void box_gradients(const char* op, const Params& p, const Tensor& grad, const Tensors& maps,
                            const Tensor& rois, Tensor& output);
};

}  // namespace fastvision::roi_align
