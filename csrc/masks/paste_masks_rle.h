// paste_masks as COCO run lengths: columns of the pasted mask, one after the other, as runs of 0 and 1 in turn, encoded
// as text. A mask is resampled a column at a time and never pasted. On the host, whatever the device: the input is
// small and the result is text.
#pragma once

#include <cstring>
#include <tuple>

#include "common/boxes_of.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/simd.h"
#include "masks/resample.h"

namespace fastvision::paste_masks {

constexpr const char* kRleOp = "paste_masks_rle";

// Runs of 0 and 1 in turn, beginning with 0s, as text: each run's difference to the last but one (from the fourth on)
// in groups of five bits, lowest first, as characters from 48 on; bit 5 says that more follow.
class RunLengths {
 public:
  // `count` more pixels of `value`
  void add(bool value, int64_t count) {
    if (count == 0) return;
    if (value != current_) end_run();
    run_ += count;
  }

  std::string text() {
    end_run();
    return std::move(text_);
  }

 private:
  void end_run() {
    int64_t number = runs_ > 2 ? run_ - before_[runs_ % 2] : run_;
    bool more = true;
    while (more) {
      int64_t group = number & 31;
      number >>= 5;
      more = group & 16 ? number != -1 : number != 0;
      text_.push_back(char((more ? group | 32 : group) + 48));
    }
    before_[runs_++ % 2] = run_;
    run_ = 0, current_ = !current_;
  }

  std::string text_;
  bool current_ = false;
  int64_t run_ = 0, runs_ = 0, before_[2] = {0, 0};
};

template <class T>
std::string encode(const T* mask, const Box<T>& box, int64_t rows, int64_t columns, int64_t height, int64_t width,
                   T threshold, Rule rule) {
  RunLengths runs;
  const bool rest = covers(T(0), threshold, rule);  // of the image
  const Axis<T> y = axis_of(box.y1, box.y2, rows, height, rule), x = axis_of(box.x1, box.x2, columns, width, rule);
  if (y.begin >= y.end || x.begin >= x.end) {
    runs.add(rest, height * width);
    return runs.text();
  }
  const Resampled<T> resampled(mask, y, x, true);
  std::vector<uint8_t> column(y.end - y.begin);
  runs.add(rest, x.begin * height);
  for (int64_t c = x.begin; c < x.end; ++c) {
    uint8_t* to = column.data();
    vectorized([&]() __attribute__((always_inline)) {
      resampled.line(c, [to, threshold, rule](int64_t p, T value) __attribute__((always_inline)) {
        to[p] = rule == Rule::kDetectron2 ? value >= threshold : value > threshold;
      });
    });
    runs.add(rest, y.begin);
    const uint8_t *at = column.data(), *end = at + column.size();
    for (bool value = false; at < end; value = !value) {
      const void* found = std::memchr(at, value ? 0 : 1, size_t(end - at));
      const uint8_t* next = found ? static_cast<const uint8_t*>(found) : end;
      runs.add(value, next - at);
      at = next;
    }
    runs.add(rest, height - y.end);
  }
  runs.add(rest, (width - x.end) * height);
  return runs.text();
}

// masks and boxes on the host -> the texts one after the other (uint8), and where each ends [N]
inline std::tuple<Tensor, Tensor> encode_all(const Tensor& masks, const Tensor& boxes, int64_t height, int64_t width,
                                             double threshold, const std::string& rule_name) {
  const Rule rule = validate(kRleOp, masks, boxes, height, width, rule_name);
  const ScalarType type = geometry_type(masks.scalar_type());
  const Tensor m = contiguous_as(masks, type), b = contiguous_as(boxes, type);
  const int64_t n = m.size(0), rows = m.size(1), columns = m.size(2);
  std::vector<std::string> texts(n);
  dispatch_geometry(type, [&](auto t) {
    using T = typename decltype(t)::type;
    parallel_workers(n, [&](const auto& next) {
      for (int64_t i = next(); i < n; i = next()) {
        texts[i] = encode(m.const_data_ptr<T>() + i * rows * columns, boxes_of<T>(b)[i], rows, columns, height, width,
                          T(threshold), rule);
      }
    });
  });
  Tensor ends = empty_vector(m, n, ScalarType::Long);
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) ends.mutable_data_ptr<int64_t>()[i] = total += int64_t(texts[i].size());
  Tensor all = empty_vector(m, total, ScalarType::Byte);
  uint8_t* to = all.mutable_data_ptr<uint8_t>();
  for (const std::string& text : texts) to = std::copy(text.begin(), text.end(), to);
  return {all, ends};
}

}  // namespace fastvision::paste_masks
