// max_unpool2d on CUDA: one thread an input, which writes the outputs of its cell, or reads the one its index names.
// Planes with an index out of its cell are done again, the last input of each place found by an atomic maximum over
// positions, so that the outcome is the same in every run. Many small planes are a block's each, in one launch; of
// others, blocks are marked, and a second launch does those again.
#include <algorithm>

#include "common/cuda_library.cuh"
#include "common/pack.h"
#include "upsample/max_unpool2d.h"

namespace fastvision::max_unpool2d {
namespace {

using Places = Map<const int64_t>;

constexpr int kThreads = 256, kMostThreads = 1024;
constexpr int kLanes = 32;  // planes of a block where channels are side by side; one where pixels are

// What a kernel is told of one call.
struct Args {
  Params p;
  bool channels_last;  // the format of what is written
  int64_t lanes;       // planes of a block
  int64_t blocks;      // of an image

  // Without them all planes are done again.
  FV_HOST_DEVICE bool has_cells() const { return p.cell_height > 0 && p.cell_width > 0; }
  FV_HOST_DEVICE int64_t block_of(int64_t n, int64_t c) const { return n * blocks + c / lanes; }
  // Whether a block a plane keeps the device busy, and is soon done.
  bool small_planes() const {
    constexpr int64_t kFew = 48, kMostInputs = 16 * kMostThreads;
    return lanes == 1 && p.batch * p.channels >= kFew && p.height * p.width <= kMostInputs;
  }
};

Args make_args(const Params& p, bool channels_last) {
  const int64_t lanes = channels_last ? kLanes : 1;
  return {p, channels_last, lanes, ceil_div(p.channels, lanes)};
}

struct Element {
  int64_t n, c, y, x;
};

// Element e, in the order of memory, of a dense tensor [batch, channels, height, width]. Index: 32 bits where they
// do, because 64-bit divisions are slow.
template <class Index>
FV_DEVICE Element element_at(Index e, Index channels, Index height, Index width, bool channels_last) {
  const Index columns = channels_last ? channels : width, rows = channels_last ? width : height;
  const Index images = channels_last ? height : channels;
  const Index inner = e % columns, line = e / columns, middle = line % rows, outer = line / rows;
  const int64_t a = outer % images, n = outer / images;
  return channels_last ? Element{n, int64_t(inner), a, int64_t(middle)}
                       : Element{n, a, int64_t(middle), int64_t(inner)};
}

// The planes of a block, and which of their pixels a thread looks at.
struct Share {
  int64_t n, c;
  int64_t first, step;
  bool any;

  FV_DEVICE explicit Share(const Args& args)
      : n(blockIdx.x / args.blocks),
        c(blockIdx.x % args.blocks * args.lanes + threadIdx.x % args.lanes),
        first(threadIdx.x / args.lanes),
        step(int64_t(blockDim.x) / args.lanes),
        any(c < args.p.channels) {}
};

// last: pixel k of the plane at k * pixel; the position, plus one, of the last input that names it, or zero.
FV_DEVICE void find_last(const Params& p, const Share& share, const Places& places, int32_t* last, int64_t pixel) {
  for (int64_t k = share.first; share.any && k < p.pixels(); k += share.step) last[k * pixel] = 0;
  __syncthreads();
  const int64_t* plane = places.at(share.n, share.c);
  for (int64_t k = share.first; share.any && k < p.height * p.width; k += share.step) {
    const int64_t place = plane[k / p.width * places.step.h + k % p.width * places.step.w];
    if (p.is_pixel(place)) atomicMax(&last[place * pixel], int32_t(k + 1));
  }
  __syncthreads();
}

// The two directions: what an input has to do, and whether its index is in its cell; and a block of planes once more.
//
// `last` and `out` may be the same memory: whoever reads a pixel of one writes that of the other.
template <class W>
struct Unpool {
  // Writes all outputs of the cell. Those of the last row and column reach to the end of the output.
  static FV_DEVICE bool cell(const Params& p, const Map<const W>& in, const Places& places, const Map<W>& out,
                             const Element& at) {
    const int64_t place = places.at(at.n, at.c)[at.y * places.step.h + at.x * places.step.w];
    const W value = in.at(at.n, at.c)[at.y * in.step.h + at.x * in.step.w];
    const int64_t top = at.y * p.cell_height, bottom = at.y + 1 == p.height ? p.out_height : top + p.cell_height;
    const int64_t left = at.x * p.cell_width, right = at.x + 1 == p.width ? p.out_width : left + p.cell_width;
    int64_t pixel = top * p.out_width + left;
    W* target = out.at(at.n, at.c) + pixel * out.step.w;
    const bool pairs = out.step.w == 1 && p.cell_width == 2 && p.out_width % 2 == 0 && right == left + 2;
    bool inside = false;
    for (int64_t y = top; y < bottom; ++y, pixel += p.out_width, target += out.step.h) {
      if (pairs) {
        const bool first = place == pixel, second = place == pixel + 1;
        *reinterpret_cast<Pack<W, 2>*>(target) = {first ? value : W(0), second ? value : W(0)};
        inside |= first | second;
        continue;
      }
      for (int64_t x = 0; x < right - left; ++x) {
        const bool hit = place == pixel + x;
        target[x * out.step.w] = hit ? value : W(0);
        inside |= hit;
      }
    }
    return inside;
  }

  static FV_DEVICE void again(const Params& p, const Share& share, const Map<const W>& in, const Places& places,
                              const Map<int32_t>& last, const Map<W>& out) {
    int32_t* found = last.at(share.n, share.c);
    find_last(p, share, places, found, last.step.w);
    for (int64_t k = share.first; share.any && k < p.pixels(); k += share.step) {
      const int64_t position = found[k * last.step.w] - 1, i = position / p.width, j = position % p.width;
      out.at(share.n, share.c)[k * out.step.w] =
          position < 0 ? W(0) : in.at(share.n, share.c)[i * in.step.h + j * in.step.w];
    }
  }
};

template <class W>
struct Gather {
  static FV_DEVICE bool cell(const Params& p, const Map<const W>& grad, const Places& places, const Map<W>& out,
                             const Element& at) {
    const int64_t place = places.at(at.n, at.c)[at.y * places.step.h + at.x * places.step.w];
    if (!p.in_cell(place, at.y, at.x)) return false;
    out.at(at.n, at.c)[at.y * out.step.h + at.x * out.step.w] = grad.at(at.n, at.c)[place * grad.step.w];
    return true;
  }

  static FV_DEVICE void again(const Params& p, const Share& share, const Map<const W>& grad, const Places& places,
                              const Map<int32_t>& last, const Map<W>& out) {
    int32_t* found = last.at(share.n, share.c);
    find_last(p, share, places, found, last.step.w);
    for (int64_t k = share.first; share.any && k < p.height * p.width; k += share.step) {
      const int64_t i = k / p.width, j = k % p.width;
      const int64_t place = places.at(share.n, share.c)[i * places.step.h + j * places.step.w];
      const bool wins = p.is_pixel(place) && found[place * last.step.w] == k + 1;
      out.at(share.n, share.c)[i * out.step.h + j * out.step.w] =
          wins ? grad.at(share.n, share.c)[place * grad.step.w] : W(0);
    }
  }
};

// grid: planes
template <class Way, class W>
__global__ void __launch_bounds__(kMostThreads)
    do_planes(const __grid_constant__ Args args, Map<const W> in, Places places, Map<int32_t> last, Map<W> out) {
  const Params& p = args.p;
  const Share share(args);
  const unsigned width = unsigned(p.width), inputs = unsigned(p.height) * width;  // at most 16 a thread
  bool strays = !args.has_cells();
  if (!strays) {
#pragma unroll 4
    for (unsigned k = threadIdx.x; k < inputs; k += blockDim.x) {
      strays |= !Way::cell(p, in, places, out, {share.n, share.c, k / width, k % width});
    }
  }
  if (__syncthreads_or(strays)) Way::again(p, share, in, places, last, out);
}

// marked [batch * blocks]; grid: inputs
template <class Way, class W, class Index>
__global__ void __launch_bounds__(kThreads) do_cells(const __grid_constant__ Args args, Index count, Map<const W> in,
                                                     Places places, Map<W> out, int32_t* __restrict__ marked) {
  const Params& p = args.p;
  const Index e = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= count) return;
  const Element at = element_at<Index>(e, Index(p.channels), Index(p.height), Index(p.width), args.channels_last);
  if (!Way::cell(p, in, places, out, at)) marked[args.block_of(at.n, at.c)] = 1;
}

constexpr int64_t kLargeCell = 32;  // pixels, from which on an input has more to write than a thread should

// Unpooling by a thread an output.
template <class W, class Index>
__global__ void __launch_bounds__(kThreads)
    unpool_pixels(const __grid_constant__ Args args, Index count, Map<const W> in, Places places, Map<W> out,
                  int32_t* __restrict__ marked) {
  const Params& p = args.p;
  const Index e = Index(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= count) return;
  const Element at =
      element_at<Index>(e, Index(p.channels), Index(p.out_height), Index(p.out_width), args.channels_last);
  const int64_t i = Index(at.y) / Index(p.cell_height), j = Index(at.x) / Index(p.cell_width);
  W value = 0;
  if (i < p.height && j < p.width) {
    const int64_t place = places.at(at.n, at.c)[i * places.step.h + j * places.step.w];
    if (place == at.y * p.out_width + at.x) value = in.at(at.n, at.c)[i * in.step.h + j * in.step.w];
    const bool first = at.y == i * p.cell_height && at.x == j * p.cell_width;
    if (first && !p.in_cell(place, i, j)) marked[args.block_of(at.n, at.c)] = 1;
  }
  out.data[e] = value;
}

// grid: blocks of planes
template <class Way, class W>
__global__ void __launch_bounds__(kThreads) do_marked(const __grid_constant__ Args args, Map<const W> in, Places places,
                                                      const int32_t* marked, Map<int32_t> last, Map<W> out) {
  if (args.has_cells() && !marked[blockIdx.x]) return;
  Way::again(args.p, Share(args), in, places, last, out);
}

template <class Way, class W>
void run_planes(const char* op, const Args& args, const Tensor& from, const Tensor& indices, Tensor& output,
                Tensor& last) {
  constexpr int64_t kEach = 4;  // inputs of a thread, if there are threads enough
  const int64_t work = std::max(args.p.height * args.p.width, args.p.pixels() / 4);
  const int64_t warps = ceil_div(work, kEach * kWarp);
  const auto threads = unsigned(std::clamp<int64_t>(warps * kWarp, 4 * kWarp, kMostThreads));
  launch(op, &do_planes<Way, W>, {blocks_for(args.p.batch * args.blocks, 1), threads}, from, args, read<W>(from),
         read<int64_t>(indices), write<int32_t>(last), write<W>(output));
}

// first, of one thread an element of `shared`, then again, of one block a block of planes; scratch is `last`.
template <class Way, class W, class Index>
void run_elements(const char* op, const Args& args, const Tensor& from, const Tensor& indices, Tensor& output,
                  Tensor& last, const Tensor& shared,
                  void (*first)(Args, Index, Map<const W>, Places, Map<W>, int32_t*)) {
  const int64_t blocks = args.p.batch * args.blocks;
  const Tensor marked = empty_vector(from, blocks, ScalarType::Int);
  int32_t* marks = marked.mutable_data_ptr<int32_t>();
  if (args.has_cells()) {
    clear(op, from, marks, size_t(blocks) * sizeof(int32_t));
    launch(op, first, {blocks_for(shared.numel(), kThreads), kThreads}, from, args, Index(shared.numel()),
           read<W>(from), read<int64_t>(indices), write<W>(output), marks);
  }
  launch(op, &do_marked<Way, W>, {blocks_for(blocks, 1), kThreads}, from, args, read<W>(from), read<int64_t>(indices),
         marks, write<int32_t>(last), write<W>(output));
}

// f(word, index) for words of the size of those of `output`
template <class F>
void dispatch(const Tensor& output, const Tensor& indices, F f) {
  dispatch_words(output,
                 [&](auto w) { indices.numel() <= INT32_MAX ? f(w, Type<uint32_t>{}) : f(w, Type<int64_t>{}); });
}

Tensor forward(const Tensor& input, const Tensor& indices, int64_t height, int64_t width) {
  constexpr const char* kOp = "max_unpool2d";
  const Params p = forward_params(kOp, input, indices, height, width);
  const Args args = make_args(p, is_channels_last(input));
  Tensor output = empty_map(input, p.batch, p.channels, height, width, args.channels_last);
  if (input.numel() == 0 || output.numel() == 0) return clear_tensor(output);
  const Tensor wide = as_int64(indices);
  // the output of words of 32 bits has room for the positions
  Tensor last = output.element_size() == 4
                    ? output
                    : empty_map(input, p.batch, p.channels, height, width, args.channels_last, ScalarType::Int);
  const bool large = p.cell_height * p.cell_width >= kLargeCell;
  const Tensor& shared = large ? output : wide;
  dispatch(output, shared, [&](auto w, auto index) {
    using W = typename decltype(w)::type;
    using Index = typename decltype(index)::type;
    if (!large && args.small_planes()) return run_planes<Unpool<W>, W>(kOp, args, input, wide, output, last);
    const auto first = large ? &unpool_pixels<W, Index> : &do_cells<Unpool<W>, W, Index>;
    run_elements<Unpool<W>, W, Index>(kOp, args, input, wide, output, last, shared, first);
  });
  return output;
}

Tensor backward(const Tensor& grad, const Tensor& indices) {
  constexpr const char* kOp = "max_unpool2d_backward";
  const Params p = backward_params(kOp, grad, indices);
  const Args args = make_args(p, is_channels_last(indices));
  Tensor output = empty_map(grad, p.batch, p.channels, p.height, p.width, args.channels_last);
  if (output.numel() == 0 || grad.numel() == 0) return clear_tensor(output);
  const Tensor flat = with_flat_planes(grad), wide = as_int64(indices);
  Tensor last = empty_map(grad, p.batch, p.channels, p.out_height, p.out_width, args.channels_last, ScalarType::Int);
  dispatch(output, wide, [&](auto w, auto index) {
    using W = typename decltype(w)::type;
    using Index = typename decltype(index)::type;
    if (args.small_planes()) return run_planes<Gather<W>, W>(kOp, args, flat, wide, output, last);
    run_elements<Gather<W>, W, Index>(kOp, args, flat, wide, output, last, wide, &do_cells<Gather<W>, W, Index>);
  });
  return output;
}

}  // namespace
}  // namespace fastvision::max_unpool2d

FV_CUDA_LIBRARY(m) {
  m.impl("max_unpool2d", TORCH_BOX(&fastvision::max_unpool2d::forward));
  m.impl("max_unpool2d_backward", TORCH_BOX(&fastvision::max_unpool2d::backward));
}
