// Every op of fastvision, one line each. Shapes: N boxes, A anchors, K rois, P x Q pooled bins.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fastvision, m) {
  // boxes
  m.def("box_iou(Tensor boxes1, Tensor boxes2, str kind, float eps, float union_eps, bool elementwise) -> Tensor");
  m.def(
      "box_iou_backward(Tensor grad, Tensor boxes1, Tensor boxes2, str kind, float eps, float union_eps, bool elementwise) -> (Tensor, Tensor)");
  m.def("encode_boxes(Tensor boxes, Tensor anchors, float[] weights) -> Tensor");
  m.def("encode_boxes_backward(Tensor grad, Tensor boxes, Tensor anchors, float[] weights) -> (Tensor, Tensor)");
  m.def("decode_boxes(Tensor deltas, Tensor anchors, float[] weights, float scale_clamp, float[] clip_to) -> Tensor");
  m.def(
      "decode_boxes_backward(Tensor grad, Tensor deltas, Tensor anchors, float[] weights, float scale_clamp, float[] clip_to) -> (Tensor, Tensor)");
  m.def("box_iou_rotated(Tensor boxes1, Tensor boxes2, bool clockwise) -> Tensor");
  m.def(
      "match_boxes(Tensor gt_boxes, Tensor anchors, float high_threshold, float low_threshold, bool allow_low_quality_matches) -> Tensor");

  // masks
  m.def("paste_masks(Tensor masks, Tensor boxes, SymInt height, SymInt width, float? threshold, str rule) -> Tensor");
  m.def(
      "paste_masks_rle(Tensor masks, Tensor boxes, int height, int width, float threshold, str rule) -> (Tensor, Tensor)");
  m.def("masks_to_boxes(Tensor masks) -> Tensor");
  m.def(
      "mask_logits(Tensor features, Tensor weight, Tensor bias, Tensor class_weight, Tensor class_bias, Tensor labels) -> Tensor");
  m.def("heatmaps_to_keypoints(Tensor heatmaps, Tensor rois) -> (Tensor, Tensor)");

  // nms
  m.def(
      "nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, int? max_output, float? score_threshold, str metric) -> Tensor");
  m.def(
      "nms_padded(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, SymInt max_output, float? score_threshold, str metric) -> (Tensor, Tensor)");
  m.def("nms_rotated(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, bool clockwise) -> Tensor");
  m.def(
      "soft_nms(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold, float sigma, float score_threshold, str method) -> (Tensor, Tensor)");

  // proposals
  m.def(
      "top_candidates(Tensor[] scores, int classes, int k, float threshold, bool sigmoid, bool ranked) -> (Tensor, Tensor)");
  m.def(
      "decode_candidates(Tensor[] deltas, Tensor[] cell_anchors, int[] strides, Tensor indices, int classes, int[] image_sizes, float[] weights, float scale_clamp) -> Tensor");

  // roi
  m.def(
      "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio, bool aligned, bool box_gradients) -> Tensor");
  m.def(
      "roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt batch, SymInt height, SymInt width, int sampling_ratio, bool aligned, bool channels_last, bool box_gradients) -> Tensor");
  m.def(
      "roi_align_box_gradients(Tensor grad, Tensor input, Tensor rois, float spatial_scale, int sampling_ratio, bool aligned) -> Tensor");
  m.def(
      "multiscale_roi_align(Tensor[] features, Tensor rois, float[] spatial_scales, int pooled_height, int pooled_width, int sampling_ratio, bool aligned, float canonical_scale, float canonical_level, bool box_gradients) -> Tensor");
  m.def(
      "multiscale_roi_align_backward(Tensor grad, Tensor rois, SymInt batch, SymInt[] heights, SymInt[] widths, float[] spatial_scales, int sampling_ratio, bool aligned, float canonical_scale, float canonical_level, bool channels_last, bool box_gradients) -> Tensor[]");
  m.def(
      "multiscale_roi_align_box_gradients(Tensor grad, Tensor[] features, Tensor rois, float[] spatial_scales, int sampling_ratio, bool aligned, float canonical_scale, float canonical_level) -> Tensor");
  m.def(
      "roi_pool(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, bool exact_bins) -> (Tensor, Tensor)");
  m.def(
      "roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt batch, SymInt height, SymInt width, bool exact_bins, bool channels_last) -> Tensor");
  m.def(
      "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio) -> Tensor");
  m.def(
      "ps_roi_align_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt batch, SymInt height, SymInt width, int sampling_ratio, bool channels_last) -> Tensor");
  m.def("ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width) -> Tensor");
  m.def(
      "ps_roi_pool_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt batch, SymInt height, SymInt width, bool channels_last) -> Tensor");
  m.def(
      "roi_align_rotated(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio, bool aligned, bool clockwise) -> Tensor");
  m.def(
      "roi_align_rotated_backward(Tensor grad, Tensor rois, float spatial_scale, SymInt batch, SymInt height, SymInt width, int sampling_ratio, bool aligned, bool clockwise, bool channels_last) -> Tensor");

  // style
  m.def("gram_matrix(Tensor features, SymInt divisor) -> Tensor");
  m.def("gram_matrix_backward(Tensor grad, Tensor features, SymInt divisor) -> Tensor");
  m.def(
      "style_loss(Tensor[] features, Tensor[] targets, float[] weights, SymInt[] divisors) -> (Tensor loss, Tensor differences)");
  m.def(
      "style_loss_backward(Tensor? grad, Tensor differences, Tensor[] features, float[] weights, SymInt[] divisors, int[] layers) -> Tensor[]");
  m.def("style_loss_scale_(Tensor(a!)[] gradients, Tensor factor) -> ()");
  m.def(
      "instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? style, float eps, float slope) -> (Tensor, Tensor, Tensor)");
  m.def(
      "instance_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor? style, Tensor mean, Tensor rstd, float eps, float slope) -> (Tensor, Tensor, Tensor)");
  m.def("total_variation_loss(Tensor images, str norm) -> Tensor");
  m.def("total_variation_loss_backward(Tensor grad, Tensor images, str norm) -> Tensor");

  // upsample
  m.def("conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, int[] geometry, float negative_slope) -> Tensor");
  m.def("conv_transpose2d_input_gradient(Tensor grad, Tensor weight, int[] geometry, bool channels_last) -> Tensor");
  m.def("conv_transpose2d_weight_gradient(Tensor grad, Tensor input, int[] geometry) -> Tensor");
  m.def("to_layout(Tensor map, bool channels_last) -> Tensor");
  m.def("max_pool2d_with_indices(Tensor input, int[] geometry) -> (Tensor, Tensor)");
  m.def("max_unpool2d(Tensor input, Tensor indices, SymInt height, SymInt width) -> Tensor");
  m.def("max_unpool2d_backward(Tensor grad, Tensor indices) -> Tensor");
  m.def("bed_of_nails_upsample(Tensor input, SymInt factor) -> Tensor");
  m.def("bed_of_nails_upsample_backward(Tensor grad, SymInt factor) -> Tensor");
  m.def("nearest_upsample(Tensor input, SymInt factor) -> Tensor");
  m.def("nearest_upsample_backward(Tensor grad, SymInt factor) -> Tensor");
}
