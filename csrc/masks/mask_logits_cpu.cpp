// mask_logits on the CPU: per roi and position of the 2 x 2 window a matrix product [pixels, channels] x [channels,
// hidden], each tile of which goes through ReLU into the dot products with the row of the class while in registers.
#include <torch/csrc/stable/library.h>

#include "common/windows.h"
#include "masks/mask_logits.h"

namespace fastvision::mask_logits {
namespace {

constexpr int64_t kGrain = 1 << 16;  // multiplications that are worth a thread

// A tile is as many pixels as gemm::Tile has rows, and as many hidden units as it has columns. Below, [pixels] and
// [units] are those of a tile.

// sums [pixels, units] += class_weight relu(hidden + bias), unit by unit. Units past the last take no part: what is
// infinite times their zero weight is NaN.
template <class T>
[[gnu::always_inline]] inline void add_units(const gemm::Tile& tile, const T* __restrict hidden,
                                             const T* __restrict bias, const T* __restrict class_weight, int64_t units,
                                             T* __restrict sums) {
  for (int p = 0; p < tile.rows; ++p, hidden += tile.columns, sums += tile.columns) {
    for (int64_t u = 0; u < units; ++u) sums[u] += class_weight[u] * relu(hidden[u] + bias[u]);
  }
}

template <class T>
struct Scratch {
  Buffer<T> pixels;        // [tiles, channels, pixels]
  Buffer<T> sums, hidden;  // [tiles, pixels, units], [pixels, units]

  Scratch(const Params& p, const gemm::Tile& tile, int64_t length)
      : pixels(size_t(length * p.channels)),
        sums(size_t(length * tile.columns)),
        hidden(size_t(tile.rows * tile.columns)) {}
};

template <class T, class S>
[[gnu::always_inline]] inline void compute(const Params& p, const Layers<T>& layers, const windows::Panels<T>& panels,
                                           const windows::Piece& piece, const Scratch<T>& scratch, S* out) {
  const gemm::Tile tile = gemm::tile<T>();
  const int64_t units = tile.columns, label = layers.labels[piece.map];
  const int64_t length = ceil_div(piece.end - piece.begin, int64_t(tile.rows)) * tile.rows;
  const T* class_weight = layers.class_weight + label * p.hidden;
  for (int phase = 0; phase < kPhases; ++phase) {
    std::fill_n(scratch.sums.data(), length * units, T(0));
    for (int64_t block = 0; block < panels.blocks(); ++block) {
      const T* panel = panels.panel(phase, block);
      const int64_t first = block * units;
      for (int64_t k = 0; k < length; k += tile.rows) {
        gemm::multiply<T>(tile.rows, {scratch.pixels.data() + k * p.channels, tile.rows, panel, units, p.channels,
                                      scratch.hidden.data(), units, false});
        add_units(tile, scratch.hidden.data(), layers.bias + first, class_weight + first,
                  std::min(units, p.hidden - first), scratch.sums.data() + k * units);
      }
    }
    for (int64_t k = piece.begin; k < piece.end; ++k) {
      T sum = layers.class_bias[label];
      for (int64_t u = 0; u < units; ++u) sum += scratch.sums[size_t((k - piece.begin) * units + u)];
      out[p.place(piece.map, k / p.width, k % p.width, phase)] = static_cast<S>(sum);
    }
  }
}

template <class T, class S>
void run(const Params& p, const Tensor& features, const Layers<T>& layers, S* out) {
  const windows::Panels<T> panels(p.channels, p.hidden, kPhases, layers.weight);
  const Strides step = strides_of(features);
  const S* data = features.const_data_ptr<S>();
  const gemm::Tile tile = gemm::tile<T>();
  const windows::Pieces pieces(p.rois, p.pixels(), tile.rows);  // no pixel's sum depends on how they are cut
  const int64_t work = pieces.length * p.channels * p.hidden;
  parallel_for(p.rois * pieces.each, ceil_div(kGrain, work + 1), [&](int64_t first, int64_t last) {
    const Scratch<T> scratch(p, tile, pieces.length);
    for (int64_t i = first; i < last; ++i) {
      const windows::Piece piece = pieces[i];
      vectorized([&]() __attribute__((always_inline)) {
        windows::pack_pixels(p.channels, p.width, tile.rows, data, step, piece, scratch.pixels.data());
        compute(p, layers, panels, piece, scratch, out);
      });
    }
  });
}

Tensor mask_logits(const Tensor& features, const Tensor& weight, const Tensor& bias, const Tensor& class_weight,
                   const Tensor& class_bias, const Tensor& labels) {
  const Inputs in{weight, bias, class_weight, class_bias, labels};
  const Params p = make_params(features, in);
  const Inputs plain = contiguous_inputs(in, geometry_type(features.scalar_type()));
  const int64_t* label = plain.labels.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < p.rois; ++r) {
    if (label[r] < 0 || label[r] >= p.classes) {
      fail<std::out_of_range>(kOp, "expected labels[", r, "] in [0, ", p.classes, "), got ", label[r]);
    }
  }
  Tensor out = empty_output(p, features);
  if (out.numel() == 0) return out;
  dispatch_floating(kOp, features.scalar_type(), [&](auto s) {
    using S = typename decltype(s)::type;
    using T = Accumulator<S>;
    run<T, S>(p, features, plain.layers<T>(), out.mutable_data_ptr<S>());
  });
  return out;
}

}  // namespace
}  // namespace fastvision::mask_logits

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("mask_logits", TORCH_BOX(&fastvision::mask_logits::mask_logits));
}
