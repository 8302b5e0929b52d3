// mask_logits on the CPU: per roi and position of the 2 x 2 window a matrix product [pixels, channels] x [channels,
// hidden], each tile of which goes through ReLU into the dot products with the row of the class while in registers.
#include <torch/csrc/stable/library.h>

#include "common/gemm.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "masks/mask_logits.h"

namespace fastvision::mask_logits {
namespace {

constexpr int64_t kGrain = 1 << 16;   // multiplications that are worth a thread
constexpr int64_t kMostPixels = 240;  // of a piece of a roi, whose features stay in the L2 cache

// A tile is as many pixels as gemm::Tile has rows, and as many hidden units as it has columns. Below, [pixels] and
// [units] are those of a tile.

// The weight as panels [4][blocks of hidden units][channels][units], zeros past the last unit.
template <class T>
class Panels {
 public:
  Panels(const Params& p, const T* weight)
      : units_(gemm::tile<T>().columns),
        channels_(p.channels),
        blocks_(ceil_div(p.hidden, units_)),
        data_(size_t(kPhases * blocks_ * channels_ * units_)) {
    parallel_for(blocks_, ceil_div(kGrain, kPhases * units_ * channels_ + 1), [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) pack(p, weight, block);
    });
  }

  int64_t blocks() const { return blocks_; }
  T* panel(int phase, int64_t block) const { return data_.data() + (phase * blocks_ + block) * channels_ * units_; }

 private:
  void pack(const Params& p, const T* weight, int64_t block) const {
    for (int64_t c = 0; c < channels_; ++c) {
      for (int64_t u = 0; u < units_; ++u) {
        const int64_t o = block * units_ + u;
        const T* source = weight + (c * p.hidden + o) * kPhases;
        for (int phase = 0; phase < kPhases; ++phase) {
          panel(phase, block)[c * units_ + u] = o < p.hidden ? source[phase] : T(0);
        }
      }
    }
  }

  int64_t units_, channels_, blocks_;
  Buffer<T> data_;
};

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

// Pixels [begin, end) of one roi.
struct Piece {
  int64_t roi, begin, end;
};

template <class T>
struct Scratch {
  Buffer<T> pixels;        // [tiles, channels, pixels]
  Buffer<T> sums, hidden;  // [tiles, pixels, units], [pixels, units]

  Scratch(const Params& p, const gemm::Tile& tile, int64_t length)
      : pixels(size_t(length * p.channels)),
        sums(size_t(length * tile.columns)),
        hidden(size_t(tile.rows * tile.columns)) {}
};

// Features of either format, read in place; pixels past the last are zero.
template <class T, class S>
[[gnu::always_inline]] inline void pack_pixels(const Params& p, int64_t together, const S* features,
                                               const Strides& step, const Piece& piece, T* pixels) {
  const S* roi = features + piece.roi * step.n;
  int64_t offset[gemm::kMostRows] = {};
  for (int64_t first = piece.begin; first < piece.end; first += together, pixels += p.channels * together) {
    const int64_t count = std::min(together, piece.end - first);
    for (int64_t i = 0; i < count; ++i) {
      offset[i] = (first + i) / p.width * step.h + (first + i) % p.width * step.w;
    }
    for (int64_t c = 0; c < p.channels; ++c) {
      for (int64_t i = 0; i < count; ++i) pixels[c * together + i] = static_cast<T>(roi[c * step.c + offset[i]]);
      for (int64_t i = count; i < together; ++i) pixels[c * together + i] = T(0);
    }
  }
}

template <class T, class S>
[[gnu::always_inline]] inline void compute(const Params& p, const Layers<T>& layers, const Panels<T>& panels,
                                           const Piece& piece, const Scratch<T>& scratch, S* out) {
  const gemm::Tile tile = gemm::tile<T>();
  const int64_t units = tile.columns, label = layers.labels[piece.roi];
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
      out[p.place(piece.roi, k / p.width, k % p.width, phase)] = static_cast<S>(sum);
    }
  }
}

template <class T, class S>
void run(const Params& p, const Tensor& features, const Layers<T>& layers, S* out) {
  const Panels<T> panels(p, layers.weight);
  const Strides step = strides_of(features);
  const S* data = features.const_data_ptr<S>();
  const gemm::Tile tile = gemm::tile<T>();
  // enough pieces for every thread, each of whole tiles; no pixel's sum depends on how they are cut
  const int64_t pieces = std::max(ceil_div(p.pixels(), kMostPixels), ceil_div(thread_count(), p.rois));
  const int64_t length = ceil_div(ceil_div(p.pixels(), pieces), int64_t(tile.rows)) * tile.rows;
  const int64_t each = ceil_div(p.pixels(), length), count = p.rois * each;
  const int64_t work = length * p.channels * p.hidden;
  parallel_for(count, ceil_div(kGrain, work + 1), [&](int64_t first, int64_t last) {
    const Scratch<T> scratch(p, tile, length);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % each * length;
      const Piece piece{i / each, begin, std::min(begin + length, p.pixels())};
      vectorized([&]() __attribute__((always_inline)) {
        pack_pixels(p, tile.rows, data, step, piece, scratch.pixels.data());
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
