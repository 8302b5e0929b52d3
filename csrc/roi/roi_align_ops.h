// The ops roi_align and multiscale_roi_align, written once for both devices. A Device has
//   pool(op, params, maps, rois, output)              output = A_y F A_x^T for each roi
//   unpool(op, params, grad, rois, maps)              its transpose, into the gradients of all maps
//   box_gradients(op, params, grad, maps, rois, out)  with respect to the rois
// with rois contiguous and in the geometry type of the maps.
#pragma once

#include <vector>

#include "roi/roi_align.h"

namespace fastvision::roi_align {

using Tensors = std::vector<Tensor>;

struct Sampling {
  int64_t pooled_height, pooled_width, ratio;
  bool aligned;
};

// A single map: levels are not told apart.
struct LevelRule {
  double canonical_scale = 1, canonical_level = 0;
};

inline Params params_of(const char* op, const Tensor& values, const Tensor& rois, const Sampling& sampling,
                        const std::vector<double>& scales, const LevelRule& rule) {
  const int64_t levels = int64_t(scales.size());
  FV_CHECK(levels > 0 && levels <= kMostLevels, op, "expected 1 to ", kMostLevels, " spatial scales, got ", levels);
  roi::check(op, values, rois, 5, sampling.pooled_height, sampling.pooled_width);
  FV_CHECK(sampling.ratio <= kMostSamples, op, "expected sampling_ratio <= ", kMostSamples, ", got ", sampling.ratio);
  Params p{};
  p.pooled_height = sampling.pooled_height, p.pooled_width = sampling.pooled_width;
  p.sampling_ratio = sampling.ratio, p.aligned = sampling.aligned;
  p.channels = values.size(1), p.levels = levels;
  p.canonical_scale = rule.canonical_scale, p.canonical_level = rule.canonical_level;
  for (int64_t l = 0; l < levels; ++l) p.level[l].spatial_scale = scales[l];
  if (levels > 1) {
    for (const double scale : scales) {
      FV_CHECK(scale > 0 && std::isfinite(scale), op, "expected finite spatial scales > 0, got ", scale);
    }
    FV_CHECK(rule.canonical_scale > 0 && std::isfinite(rule.canonical_scale), op,
             "expected a finite canonical_scale > 0, got ", rule.canonical_scale);
    p.first_level = int64_t(-std::log2(scales[0]));
  }
  return p;
}

inline Params forward_params(const char* op, const Tensors& maps, const Tensor& rois, const Sampling& sampling,
                             const std::vector<double>& scales, const LevelRule& rule) {
  FV_CHECK(maps.size() == scales.size(), op, "expected one spatial scale for each of ", maps.size(),
           " feature maps, got ", scales.size());
  FV_CHECK(!maps.empty(), op, "expected at least one feature map");
  Params p = params_of(op, maps[0], rois, sampling, scales, rule);
  p.batch = maps[0].size(0);
  for (size_t l = 0; l < maps.size(); ++l) {
    const Tensor& map = maps[l];
    FV_CHECK(map.dim() == 4 && map.size(0) == p.batch && map.size(1) == p.channels, op,
             "expected feature maps of shape [", p.batch, ", ", p.channels, ", H, W], got ", shape_of(map));
    FV_CHECK(map.scalar_type() == maps[0].scalar_type(), op, "expected feature maps of one dtype");
    check_same_device(op, "the feature maps", map, "each other", maps[0]);
    p.level[l].height = map.size(2), p.level[l].width = map.size(3);
    roi::check_plane(op, p.level[l].height, p.level[l].width);
  }
  return p;
}

template <class Device>
Tensor forward(const char* op, const Tensors& maps, const Tensor& rois, const Sampling& sampling,
               const std::vector<double>& scales, const LevelRule& rule) {
  const Params p = forward_params(op, maps, rois, sampling, scales, rule);
  Tensor output =
      empty_map(maps[0], rois.size(0), p.channels, p.pooled_height, p.pooled_width, is_channels_last(maps[0]));
  Device::pool(op, p, maps, contiguous_as(rois, geometry_type(maps[0].scalar_type())), output);
  return output;
}

struct MapSizes {
  int64_t batch;
  std::vector<int64_t> heights, widths;
  bool channels_last;
};

// grad [K, channels, pooled_height, pooled_width]
template <class Device>
Tensors backward(const char* op, const Tensor& grad, const Tensor& rois, const MapSizes& sizes, int64_t ratio,
                 bool aligned, const std::vector<double>& scales, const LevelRule& rule) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [K, C, P, Q], got ", shape_of(grad));
  Params p = params_of(op, grad, rois, {grad.size(2), grad.size(3), ratio, aligned}, scales, rule);
  FV_CHECK(grad.size(0) == rois.size(0), op, "expected grad and rois of the same length, got ", shape_of(grad), " and ",
           shape_of(rois));
  FV_CHECK(sizes.heights.size() == scales.size() && sizes.widths.size() == scales.size(), op,
           "expected a height and a width for each spatial scale");
  p.batch = sizes.batch;
  FV_CHECK(p.batch >= 0, op, "expected an input size >= 0");
  Tensors maps;
  for (size_t l = 0; l < scales.size(); ++l) {
    p.level[l].height = sizes.heights[l], p.level[l].width = sizes.widths[l];
    roi::check_plane(op, sizes.heights[l], sizes.widths[l]);
    maps.push_back(empty_map(grad, p.batch, p.channels, sizes.heights[l], sizes.widths[l], sizes.channels_last));
  }
  Device::unpool(op, p, grad, contiguous_as(rois, geometry_type(grad.scalar_type())), maps);
  return maps;
}

// -> [K, 5] in the geometry type of the maps
template <class Device>
Tensor box_gradients(const char* op, const Tensor& grad, const Tensors& maps, const Tensor& rois, int64_t ratio,
                     bool aligned, const std::vector<double>& scales, const LevelRule& rule) {
  FV_CHECK(grad.dim() == 4, op, "expected grad of shape [K, C, P, Q], got ", shape_of(grad));
  const Params p = forward_params(op, maps, rois, {grad.size(2), grad.size(3), ratio, aligned}, scales, rule);
  FV_CHECK(grad.size(0) == rois.size(0) && grad.size(1) == p.channels, op, "expected grad of shape [", rois.size(0),
           ", ", p.channels, ", P, Q], got ", shape_of(grad));
  FV_CHECK(grad.scalar_type() == maps[0].scalar_type(), op, "expected grad and the feature maps of one dtype");
  check_same_device(op, "grad", grad, "the feature maps", maps[0]);
  const Tensor plain = contiguous_as(rois, geometry_type(maps[0].scalar_type()));
  Tensor output = clear_tensor(empty_tensor(plain, {rois.size(0), 5}));
  Device::box_gradients(op, p, grad, maps, plain, output);
  return output;
}

// Slopes are kept sample by sample.
inline void check_box_gradients(const char* op, bool box_gradients, int64_t sampling_ratio) {
  FV_CHECK(!box_gradients || sampling_ratio <= 1024, op, "expected sampling_ratio <= 1024 with box_gradients, got ",
           sampling_ratio);
}

template <class Device>
Tensor roi_align(const Tensor& input, const Tensor& rois, double spatial_scale, int64_t pooled_height,
                 int64_t pooled_width, int64_t sampling_ratio, bool aligned, bool box_gradients) {
  check_box_gradients("roi_align", box_gradients, sampling_ratio);
  return forward<Device>("roi_align", {input}, rois, {pooled_height, pooled_width, sampling_ratio, aligned},
                         {spatial_scale}, {});
}

template <class Device>
Tensor roi_align_backward(const Tensor& grad, const Tensor& rois, double spatial_scale, int64_t batch, int64_t height,
                          int64_t width, int64_t sampling_ratio, bool aligned, bool channels_last, bool) {
  return backward<Device>("roi_align_backward", grad, rois, {batch, {height}, {width}, channels_last}, sampling_ratio,
                          aligned, {spatial_scale}, {})[0];
}

template <class Device>
Tensor roi_align_box_gradients(const Tensor& grad, const Tensor& input, const Tensor& rois, double spatial_scale,
                               int64_t sampling_ratio, bool aligned) {
  return box_gradients<Device>("roi_align_box_gradients", grad, {input}, rois, sampling_ratio, aligned, {spatial_scale},
                               {});
}

}  // namespace fastvision::roi_align
