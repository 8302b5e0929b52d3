// Boxes of chosen candidates from the regression maps [N, 4 anchors, H, W] of a detector, read where they lie. The
// anchors are computed from the candidates' indices. Written once: `Rows` says how candidates are iterated.
#pragma once

#include <torch/csrc/stable/library.h>

#include <vector>

#include "common/box_coder.h"
#include "common/dispatch.h"
#include "common/layout.h"

namespace fastvision::decode_candidates {

constexpr const char* kOp = "decode_candidates";
constexpr int kImages = 64;  // whose sizes a kernel takes by value

template <class S, class T>
struct Level {
  const S* deltas;
  Strides step;
  const T* cell_anchors;  // [anchors, 4], around a cell's origin
  int64_t anchors, width;
  int64_t count;               // candidates: cells, anchors and classes
  int64_t stride_y, stride_x;  // pixels from a cell to the next
};

template <class S, class T>
struct Row {
  Level<S, T> level[kMostLevels];
  T height[kImages], width[kImages];
  box_coder::Coder<T> coder;
  int64_t levels, chosen, classes, first_image;
  const int64_t* indices;  // [N, levels, chosen] (y, x, anchor, class); negative, or beyond the last: none
  T* boxes;                // [N, levels, chosen, 4]

  FV_HOST_DEVICE void operator()(int64_t i) const {
    i += first_image * levels * chosen;
    const int64_t image = i / (levels * chosen), index = indices[i];
    T* out = boxes + 4 * i;
    const Level<S, T>& from = level[i / chosen % levels];
    if (index < 0 || index >= from.count) {
      for (int c = 0; c < 4; ++c) out[c] = 0;
      return;
    }
    const int64_t anchor = index / classes % from.anchors, cell = index / classes / from.anchors;
    const int64_t y = cell / from.width, x = cell % from.width;
    const T shift_x = T(x * from.stride_x), shift_y = T(y * from.stride_y);
    const T* around = from.cell_anchors + 4 * anchor;
    const T box[4] = {shift_x + around[0], shift_y + around[1], shift_x + around[2], shift_y + around[3]};
    T code[4];
    for (int c = 0; c < 4; ++c) {
      code[c] =
          T(from.deltas[image * from.step.n + (4 * anchor + c) * from.step.c + y * from.step.h + x * from.step.w]);
    }
    box_coder::Coder<T> clipping = coder;
    clipping.clip_height = height[image - first_image], clipping.clip_width = width[image - first_image];
    box_coder::decode(clipping, code, box, out);
  }
};

inline void validate(const std::vector<Tensor>& deltas, const std::vector<Tensor>& cell_anchors,
                     const std::vector<int64_t>& strides, const Tensor& indices, int64_t classes,
                     const std::vector<int64_t>& image_sizes, const std::vector<double>& weights) {
  const size_t levels = deltas.size();
  FV_CHECK(levels > 0 && levels <= kMostLevels, kOp, "expected 1 to ", kMostLevels, " levels, got ", levels);
  FV_CHECK(cell_anchors.size() == levels && strides.size() == 2 * levels, kOp,
           "expected cell anchors and strides (y, x) of ", levels, " levels, got ", cell_anchors.size(), " and ",
           strides.size() / 2);
  FV_CHECK(indices.dim() == 3 && indices.size(1) == int64_t(levels) && indices.scalar_type() == ScalarType::Long, kOp,
           "expected int64 indices of shape [N, ", levels, ", k], got ", shape_of(indices));
  FV_CHECK(classes > 0, kOp, "expected classes > 0, got ", classes);
  FV_CHECK(int64_t(image_sizes.size()) == 2 * indices.size(0), kOp, "expected a size (height, width) for each of ",
           indices.size(0), " images, got ", image_sizes.size() / 2);
  for (size_t l = 0; l < levels; ++l) {
    check_matrix(kOp, "cell_anchors", cell_anchors[l], 4);
    check_real(kOp, "cell_anchors", cell_anchors[l]);
    FV_CHECK(deltas[l].dim() == 4 && deltas[l].size(0) == indices.size(0) &&
                 deltas[l].size(1) == 4 * cell_anchors[l].size(0),
             kOp, "expected deltas of shape [", indices.size(0), ", ", 4 * cell_anchors[l].size(0), ", H, W], got ",
             shape_of(deltas[l]));
    check_floating(kOp, "deltas", deltas[l]);
    FV_CHECK(deltas[l].scalar_type() == deltas[0].scalar_type(), kOp, "expected deltas of one dtype");
    check_same_device(kOp, "deltas", deltas[l], "indices", indices);
    check_same_device(kOp, "cell_anchors", cell_anchors[l], "indices", indices);
  }
  box_coder::validate_weights(kOp, weights);
}

// Where indices can be looked at: one that no candidate has raises.
template <class S, class T>
void check_indices(const Row<S, T>& row, int64_t images) {
  for (int64_t i = 0; i < images * row.levels * row.chosen; ++i) {
    const int64_t index = row.indices[i], count = row.level[i / row.chosen % row.levels].count;
    if (index < count) continue;
    fail<std::out_of_range>(kOp, "expected indices of level ", i / row.chosen % row.levels, " below ", count, ", got ",
                            index);
  }
}

template <class Rows>
Tensor decode_candidates(std::vector<Tensor> deltas, std::vector<Tensor> cell_anchors, std::vector<int64_t> strides,
                         const Tensor& indices, int64_t classes, std::vector<int64_t> image_sizes,
                         std::vector<double> weights, double scale_clamp) {
  validate(deltas, cell_anchors, strides, indices, classes, image_sizes, weights);
  const int64_t images = indices.size(0), levels = indices.size(1), chosen = indices.size(2);
  const ScalarType type = geometry_type(deltas[0].scalar_type());
  for (Tensor& anchors : cell_anchors) anchors = contiguous_as(anchors, type);
  const Tensor plain = contiguous_as(indices, ScalarType::Long);
  Tensor boxes = empty_tensor(deltas[0], {images, levels, chosen, 4}, type);
  dispatch_floating(kOp, deltas[0].scalar_type(), [&](auto s) {
    using S = typename decltype(s)::type;
    using T = Accumulator<S>;
    Row<S, T> row{};
    for (int64_t l = 0; l < levels; ++l) {
      row.level[l] = {deltas[l].const_data_ptr<S>(),
                      strides_of(deltas[l]),
                      cell_anchors[l].const_data_ptr<T>(),
                      cell_anchors[l].size(0),
                      deltas[l].size(3),
                      deltas[l].size(2) * deltas[l].size(3) * cell_anchors[l].size(0) * classes,
                      strides[2 * l],
                      strides[2 * l + 1]};
    }
    row.coder = box_coder::make_coder<T>(weights, scale_clamp, {});
    row.levels = levels, row.chosen = chosen, row.classes = classes;
    row.indices = plain.const_data_ptr<int64_t>(), row.boxes = boxes.mutable_data_ptr<T>();
    if (Rows::kOnHost) check_indices(row, images);
    for (row.first_image = 0; row.first_image < images; row.first_image += kImages) {
      const int64_t some = std::min<int64_t>(kImages, images - row.first_image);
      for (int64_t n = 0; n < some; ++n) {
        row.height[n] = T(image_sizes[2 * (row.first_image + n)]);
        row.width[n] = T(image_sizes[2 * (row.first_image + n) + 1]);
      }
      Rows::run(kOp, indices, some * levels * chosen, row);
    }
  });
  return boxes;
}

}  // namespace fastvision::decode_candidates
