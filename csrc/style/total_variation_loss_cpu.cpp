// total_variation_loss on the CPU: rows of pixels, all channels of a channels_last row side by side, in fixed chunks of
// rows, so that no sum depends on the number of threads.
#include <torch/csrc/stable/library.h>

#include "common/memory.h"
#include "common/simd.h"
#include "style/lanes.h"
#include "style/total_variation_loss.h"

namespace fastvision::total_variation_loss {
namespace {

using style::kLanes;

constexpr int64_t kChunk = 16384;  // values of a chunk, about

// Rows of one memory format: of planes, or of whole images if channels are interleaved.
struct Rows {
  int64_t maps, maps_of_image;  // N * C and C planes, or N and 1
  int64_t count;                // rows of a map
  int64_t values, right;        // of a row; from a value to its right neighbour
  int64_t chunk, chunks;        // rows that are worked on at once, and how many such chunks a map has
  int64_t image_step, map_step, row_step;
};

Rows rows_of(const Tensor& images, bool channels_last) {
  const int64_t n = images.size(0), c = images.size(1), h = images.size(2), w = images.size(3);
  Rows rows{};
  rows.maps = channels_last ? n : n * c, rows.maps_of_image = channels_last ? 1 : c, rows.count = h;
  rows.values = channels_last ? w * c : w, rows.right = channels_last ? c : 1;
  rows.chunk = std::max(kChunk / std::max(rows.values, int64_t(1)), int64_t(1));
  rows.chunks = ceil_div(h, rows.chunk);
  rows.image_step = channels_last ? h * w * c : images.stride(0);
  rows.map_step = channels_last ? 0 : images.stride(1), rows.row_step = channels_last ? w * c : images.stride(2);
  return rows;
}

int64_t start_of(const Rows& rows, int64_t map) {
  return map / rows.maps_of_image * rows.image_step + map % rows.maps_of_image * rows.map_step;
}

// Itself if its rows can be read in place, else a copy.
Tensor readable(const Tensor& images) {
  const bool rows = images.stride(3) == 1 || images.size(3) == 1;
  return rows || is_channels_last(images) ? images : torch::stable::contiguous(images);
}

template <class Norm, class T, class S>
[[gnu::always_inline]] inline void add_terms(const S* a, const S* b, int64_t count, T* lanes) {
  for (int64_t first = 0; first < count; first += kLanes) {
    const S *x = a + first, *y = b + first;
    const int64_t values = std::min(kLanes, count - first);
    for (int64_t e = 0; e < values; ++e) lanes[e] += Norm::term(static_cast<T>(y[e]) - static_cast<T>(x[e]));
  }
}

// Rows [begin, end) of a map and their neighbours.
template <class Norm, class T, class S>
[[gnu::always_inline]] inline double variation(const Rows& rows, const S* map, int64_t begin, int64_t end) {
  T lanes[kLanes] = {};
  for (int64_t y = begin; y < end; ++y) {
    const S* row = map + y * rows.row_step;
    add_terms<Norm>(row, row + rows.right, rows.values - rows.right, lanes);
    if (y + 1 < rows.count) add_terms<Norm>(row, row + rows.row_step, rows.values, lanes);
  }
  style::fold(lanes, style::Tile{0, 1, kLanes});
  return double(lanes[0]);
}

// body(map, first row, last row + 1) for all chunks, neighbouring ones to one thread
template <class Body>
void for_each_chunk(const Rows& rows, const Body& body) {
  parallel_for(rows.maps * rows.chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % rows.chunks * rows.chunk;
      body(i / rows.chunks, first, std::min(first + rows.chunk, rows.count));
    }
  });
}

Tensor total_variation_loss(const Tensor& images, std::string norm) {
  constexpr const char* kOp = "total_variation_loss";
  check_images(kOp, images);
  const int64_t batch = images.size(0);
  Tensor loss = clear_tensor(empty_vector(images, batch, loss_type(images)));
  dispatch_norm(kOp, norm, [&](auto rule) {
    using Norm = decltype(rule);
    if (images.numel() == 0) return;
    const Tensor plain = readable(images);
    const Rows rows = rows_of(plain, is_channels_last(plain));
    Buffer<double> sums(size_t(rows.maps * rows.chunks));
    dispatch_floating(kOp, images.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      const S* data = plain.const_data_ptr<S>();
      for_each_chunk(rows, [&](int64_t map, int64_t begin, int64_t end) {
        double& sum = sums[size_t(map * rows.chunks + begin / rows.chunk)];
        vectorized([&]() __attribute__((always_inline)) {
          sum = variation<Norm, T>(rows, data + start_of(rows, map), begin, end);
        });
      });
      T* out = loss.mutable_data_ptr<T>();
      const int64_t sums_of_image = rows.maps_of_image * rows.chunks;
      for (int64_t n = 0; n < batch; ++n) {
        double total = 0;
        for (int64_t i = 0; i < sums_of_image; ++i) total += sums[size_t(n * sums_of_image + i)];
        out[n] = T(total);
      }
    });
  });
  return loss;
}

// One row: derivative of the image's variation by each value, times grad. Which neighbours exist is known when this is
// compiled, so that the middle of an image is one loop without branches.
template <class Norm, bool up, bool down, class T, class S>
[[gnu::always_inline]] inline void differentiate(const Rows& rows, const S* row, T grad, S* out) {
  const int64_t right = rows.right, below = rows.row_step;
  const auto run = [&](int64_t begin, int64_t end, auto left, auto next) __attribute__((always_inline)) {
    const S* __restrict in = row;
    S* __restrict to = out;
    for (int64_t e = begin; e < end; ++e) {
      const T x = static_cast<T>(in[e]);
      T slope = 0;
      if constexpr (decltype(left)::value) slope += Norm::derivative(x - static_cast<T>(in[e - right]));
      if constexpr (decltype(next)::value) slope += Norm::derivative(x - static_cast<T>(in[e + right]));
      if constexpr (up) slope += Norm::derivative(x - static_cast<T>(in[e - below]));
      if constexpr (down) slope += Norm::derivative(x - static_cast<T>(in[e + below]));
      to[e] = static_cast<S>(grad * slope);
    }
  };
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if (rows.values == right) return run(0, right, no, no);
  run(0, right, no, yes);
  run(right, rows.values - right, yes, yes);
  run(rows.values - right, rows.values, yes, no);
}

Tensor total_variation_loss_backward(const Tensor& grad, const Tensor& images, std::string norm) {
  constexpr const char* kOp = "total_variation_loss_backward";
  check_backward(kOp, grad, images);
  Tensor to_images = map_like(images);
  dispatch_norm(kOp, norm, [&](auto rule) {
    using Norm = decltype(rule);
    if (images.numel() == 0) return;
    const Tensor plain = readable(images), plain_grad = contiguous_as(grad, grad.scalar_type());
    const Rows rows = rows_of(plain, is_channels_last(plain)), out_rows = rows_of(to_images, is_channels_last(plain));
    dispatch_floating(kOp, images.scalar_type(), [&](auto t) {
      using S = typename decltype(t)::type;
      using T = Accumulator<S>;
      const S* data = plain.const_data_ptr<S>();
      const T* grads = plain_grad.const_data_ptr<T>();
      S* out = to_images.mutable_data_ptr<S>();
      for_each_chunk(rows, [&](int64_t map, int64_t begin, int64_t end) {
        const S* in = data + start_of(rows, map);
        S* to = out + start_of(out_rows, map);
        const T scale = grads[map / rows.maps_of_image];
        vectorized([&]() __attribute__((always_inline)) {
          for (int64_t y = begin; y < end; ++y) {
            const S* row = in + y * rows.row_step;
            S* target = to + y * out_rows.row_step;
            const bool up = y > 0, down = y + 1 < rows.count;
            if (up && down) {
              differentiate<Norm, true, true>(rows, row, scale, target);
            } else if (up) {
              differentiate<Norm, true, false>(rows, row, scale, target);
            } else if (down) {
              differentiate<Norm, false, true>(rows, row, scale, target);
            } else {
              differentiate<Norm, false, false>(rows, row, scale, target);
            }
          }
        });
      });
    });
  });
  return to_images;
}

}  // namespace
}  // namespace fastvision::total_variation_loss

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) {
  m.impl("total_variation_loss", TORCH_BOX(&fastvision::total_variation_loss::total_variation_loss));
  m.impl("total_variation_loss_backward", TORCH_BOX(&fastvision::total_variation_loss::total_variation_loss_backward));
}
