// roi_align on a feature pyramid, the level of each roi chosen inside. The ops, written once for both devices.
#pragma once

#include "roi/roi_align_ops.h"

namespace fastvision::roi_align {

template <class Device>
Tensor multiscale_roi_align(Tensors features, const Tensor& rois, std::vector<double> spatial_scales,
                            int64_t pooled_height, int64_t pooled_width, int64_t sampling_ratio, bool aligned,
                            double canonical_scale, double canonical_level, bool box_gradients) {
  check_box_gradients("multiscale_roi_align", box_gradients, sampling_ratio);
  return forward<Device>("multiscale_roi_align", features, rois, {pooled_height, pooled_width, sampling_ratio, aligned},
                         spatial_scales, {canonical_scale, canonical_level});
}

template <class Device>
Tensors multiscale_roi_align_backward(const Tensor& grad, const Tensor& rois, int64_t batch,
                                      std::vector<int64_t> heights, std::vector<int64_t> widths,
                                      std::vector<double> spatial_scales, int64_t sampling_ratio, bool aligned,
                                      double canonical_scale, double canonical_level, bool channels_last, bool) {
  return backward<Device>("multiscale_roi_align_backward", grad, rois, {batch, heights, widths, channels_last},
                          sampling_ratio, aligned, spatial_scales, {canonical_scale, canonical_level});
}

template <class Device>
Tensor multiscale_roi_align_box_gradients(const Tensor& grad, Tensors features, const Tensor& rois,
                                          std::vector<double> spatial_scales, int64_t sampling_ratio, bool aligned,
                                          double canonical_scale, double canonical_level) {
  return box_gradients<Device>("multiscale_roi_align_box_gradients", grad, features, rois, sampling_ratio, aligned,
                               spatial_scales, {canonical_scale, canonical_level});
}

}  // namespace fastvision::roi_align
