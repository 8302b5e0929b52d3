// What the forward and the backward of instance_norm share on the CPU.
#pragma once

#include "common/memory.h"
#include "common/simd.h"
#include "style/instance_norm.h"
#include "style/lanes.h"

namespace fastvision::instance_norm {

using style::for_each_row;
using style::GroupedMap;
using style::Groups;
using style::kLanes;
using style::Tile;

// Two numbers a channel for each chunk of each group: [groups, chunks, 2, channels].
class ChunkSums {
 public:
  explicit ChunkSums(const Groups& groups)
      : groups_(groups), sums_(size_t(groups.count * groups.chunks * 2 * groups.channels)) {}

  double* first(int64_t group, int64_t chunk) {
    return sums_.data() + (group * groups_.chunks + chunk) * 2 * groups_.channels;
  }
  double* second(int64_t group, int64_t chunk) { return first(group, chunk) + groups_.channels; }

 private:
  const Groups groups_;
  Buffer<double> sums_;
};

// The lines of the channels of a tile, spread over its row.
template <class T>
struct Lines {
  T mean[kLanes], scale[kLanes], shift[kLanes];

  template <class Registers>
  struct Part {
    typename Registers::Part mean, scale, shift;
  };
  // of the lanes from `lane` on
  template <class Registers>
  [[gnu::always_inline]] Part<Registers> at(Registers, int64_t lane) const {
    return {Registers::load_part(mean + lane), Registers::load_part(scale + lane), Registers::load_part(shift + lane)};
  }
};

// mean, rstd: of all planes; plane: the first of the group
template <class T>
[[gnu::always_inline]] inline Lines<T> lines_of(const Affine<T>& affine, int64_t plane, const Tile& tile,
                                                const double* mean, const double* rstd) {
  Lines<T> lines;
  const int64_t row = affine.row(plane / affine.channels);
  for (int64_t c = 0; c < tile.channels; ++c) {
    const int64_t p = plane + tile.first + c, channel = p % affine.channels;
    const Line<T> line = line_of<T>(mean[p], rstd[p], affine.weight_at(row, channel), affine.bias_at(row, channel));
    lines.mean[c] = line.mean, lines.scale[c] = line.scale, lines.shift[c] = line.shift;
  }
  style::spread(lines.mean, tile), style::spread(lines.scale, tile), style::spread(lines.shift, tile);
  return lines;
}

inline void check_styles(const char* op, const Tensor& input, const AffineTensors& affine) {
  if (!affine.style) return;
  const int64_t* style = affine.style->const_data_ptr<int64_t>();
  for (int64_t n = 0; n < input.size(0); ++n) {
    if (style[n] < 0 || style[n] >= affine.styles) fail_style(op, n, style[n], affine.styles);
  }
}

}  // namespace fastvision::instance_norm
