// Maps [N, C, H, W] as groups of interleaved planes, one view of both memory formats: contiguous maps are N * C groups
// of one plane, channels_last maps N groups of C planes. A group is cut into chunks of pixels, which do not depend on
// the number of threads or processors, so sums over chunks in order do not either.
#pragma once

#include "common/host_device.h"
#include "common/layout.h"
#include "common/scalar.h"

namespace fastvision::style {

struct Groups {
  int64_t count;          // of groups
  int64_t channels;       // planes interleaved in each
  int64_t pixels;         // of a plane
  int64_t chunk, chunks;  // pixels that are worked on at once, and how many such chunks a plane has

  FV_HOST_DEVICE int64_t first_pixel(int64_t c) const { return c * chunk; }
  FV_HOST_DEVICE int64_t pixels_of(int64_t c) const { return c + 1 < chunks ? chunk : pixels - c * chunk; }
};

// input [N, C, H, W]; pixels_of_chunk(channels of a group)
template <class PixelsOfChunk>
Groups groups_of(const Tensor& input, bool channels_last, const PixelsOfChunk& pixels_of_chunk) {
  const int64_t n = input.size(0), c = input.size(1), pixels = input.size(2) * input.size(3);
  const int64_t channels = channels_last ? c : 1, chunk = pixels_of_chunk(channels);
  return {channels_last ? n : n * c, channels, pixels, chunk, ceil_div(pixels, chunk)};
}

// Where each group of a map begins. Images and, in contiguous maps, planes may be apart from each other.
template <class S>
struct GroupedMap {
  S* data;
  int64_t planes;  // groups of an image
  int64_t image_step, plane_step;

  FV_HOST_DEVICE S* operator[](int64_t group) const {
    return data + group / planes * image_step + group % planes * plane_step;
  }
};

// `map` itself if its planes can be read in place, else a copy.
inline Tensor grouped(const Tensor& map, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  if (channels_last) return is_channels_last(map) ? map : torch::stable::contiguous(map, MemoryFormat::ChannelsLast);
  const bool rows = map.size(3) == 1 || map.stride(3) == 1, planes = map.size(2) == 1 || map.stride(2) == map.size(3);
  return rows && planes ? map : torch::stable::contiguous(map);
}

// map: as `grouped` returns it
template <class S>
GroupedMap<S> grouped_map(S* data, const Tensor& map, bool channels_last) {
  if (channels_last) return {data, 1, map.size(1) * map.size(2) * map.size(3), 0};
  return {data, maximum(map.size(1), int64_t(1)), map.stride(0), map.stride(1)};
}

template <class S>
GroupedMap<const S> readable_map(const Tensor& map, bool channels_last) {
  return grouped_map<const S>(map.const_data_ptr<S>(), map, channels_last);
}

template <class S>
GroupedMap<S> writable_map(const Tensor& map, bool channels_last) {
  return grouped_map<S>(map.mutable_data_ptr<S>(), map, channels_last);
}

}  // namespace fastvision::style
