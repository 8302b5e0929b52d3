// soft_nms on the CPU. The published loop looks at every remaining box once for each box it selects. Here boxes that
// lie near one another share a block with a hull and a best score, so that a selection looks at one number a block,
// and recomputes only the blocks whose hull the selected box meets.
#include <torch/csrc/stable/library.h>

#include "common/dispatch.h"
#include "common/simd.h"
#include "nms/classes.h"
#include "nms/soft_nms.h"

namespace fastvision::soft_nms {
namespace {

constexpr int kBlock = 64;  // boxes

template <class T>
using Index = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;  // as wide as T, so that both share a lane

template <class T>
constexpr T kGone = -std::numeric_limits<T>::infinity();  // the score of a box that is selected or dropped

// Neighbours as structure of arrays, the rest of the last block is gone.
template <class T>
struct Block {
  alignas(64) T x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], area[kBlock], score[kBlock];
  alignas(64) Index<T> order[kBlock];  // position within the class: of equal scores the lowest is selected
  Box<T> hull;

  [[gnu::always_inline]] void load(const Box<T>* boxes, const T* scores, const int64_t* members, int count) {
    constexpr T kMost = std::numeric_limits<T>::infinity();
    hull = {kMost, kMost, -kMost, -kMost};
    for (int l = 0; l < kBlock; ++l) {
      const bool used = l < count;
      const Box<T> b = used ? boxes[members[l]] : Box<T>{0, 0, 0, 0};
      x1[l] = b.x1, y1[l] = b.y1, x2[l] = b.x2, y2[l] = b.y2, area[l] = box_area(b);
      score[l] = used ? scores[members[l]] : kGone<T>;
      order[l] = used ? Index<T>(members[l]) : std::numeric_limits<Index<T>>::max();
      if (used) hull = {minimum(b.x1, hull.x1), minimum(b.y1, hull.y1), maximum(b.x2, hull.x2), maximum(b.y2, hull.y2)};
    }
  }

  // Multiplies the scores by what box `b` costs them, and drops those that fall to `least` or below.
  template <Method method>
  [[gnu::always_inline]] void apply(const Box<T>& b, T b_area, T threshold, T sigma, T least) {
    const T touching = method == Method::kGaussian ? T(0) : threshold;
    alignas(64) T overlap[kBlock];
    int touched = 0;
    for (int l = 0; l < kBlock; ++l) {
      overlap[l] = iou(b, Box<T>{x1[l], y1[l], x2[l], y2[l]}, b_area, area[l]);
      touched |= overlap[l] > touching && score[l] > least;
    }
    if (!touched) return;
    if constexpr (method == Method::kGaussian) {
      for (int l = 0; l < kBlock; ++l) {
        if (overlap[l] > 0 && score[l] > least) score[l] *= decay<method>(overlap[l], threshold, sigma);
      }
    } else {
      for (int l = 0; l < kBlock; ++l) {
        const T factor = decay<method>(overlap[l], threshold, sigma);
        score[l] = score[l] > least ? score[l] * factor : score[l];
      }
    }
    for (int l = 0; l < kBlock; ++l) score[l] = score[l] > least ? score[l] : kGone<T>;
  }

  [[gnu::always_inline]] T best() const {
    constexpr int kLanes = kVectorLanes<T>;
    T most[kLanes];
    for (int l = 0; l < kLanes; ++l) most[l] = kGone<T>;
    for (int base = 0; base < kBlock; base += kLanes) {
      for (int l = 0; l < kLanes; ++l) most[l] = maximum(score[base + l], most[l]);
    }
    T all = kGone<T>;
    for (int l = 0; l < kLanes; ++l) all = maximum(most[l], all);
    return all;
  }

  // The lane of the lowest position among those with this score.
  [[gnu::always_inline]] int first_of(T value) const {
    int found = -1;
    for (int l = 0; l < kBlock; ++l) {
      if (score[l] == value && (found < 0 || order[l] < order[found])) found = l;
    }
    return found;
  }
};

// Positions of boxes in strips of about equal height, from left to right within a strip: neighbours become neighbours.
template <class T>
std::vector<int64_t> by_place(const Box<T>* boxes, const std::vector<int64_t>& positions) {
  const int64_t n = int64_t(positions.size());
  std::vector<int64_t> placed = positions;
  if (n <= kBlock) return placed;
  const auto key = [](T value) { return value == value ? value : T(0); };  // NaN anywhere, but consistently
  const auto y = [&](int64_t i) { return key(boxes[i].y1 + boxes[i].y2); };
  const auto x = [&](int64_t i) { return key(boxes[i].x1 + boxes[i].x2); };
  const int64_t strips = std::max<int64_t>(1, int64_t(std::sqrt(double(n) / kBlock)));
  std::sort(placed.begin(), placed.end(), [&](int64_t a, int64_t b) { return y(a) < y(b); });
  for (int64_t s = 0; s < strips; ++s) {
    std::sort(placed.begin() + s * n / strips, placed.begin() + (s + 1) * n / strips,
              [&](int64_t a, int64_t b) { return x(a) < x(b); });
  }
  return placed;
}

// One class: boxes and scores [n] -> final scores, kGone where dropped.
template <Method method, class T>
void soften(const std::vector<Box<T>>& boxes, std::vector<T>& scores, const Params& params) {
  const T threshold = T(params.threshold), sigma = T(params.sigma), least = T(params.score_threshold);
  std::vector<int64_t> alive;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] > least) alive.push_back(int64_t(i));
  }
  const std::vector<int64_t> placed = by_place(boxes.data(), alive);
  const int64_t n = int64_t(placed.size()), count = (n + kBlock - 1) / kBlock;
  std::vector<Block<T>> blocks(count);
  std::vector<T> best(count);
  for (int64_t k = 0; k < count; ++k) {
    blocks[k].load(boxes.data(), scores.data(), placed.data() + k * kBlock,
                   int(std::min<int64_t>(kBlock, n - k * kBlock)));
    best[k] = blocks[k].best();
  }
  std::fill(scores.begin(), scores.end(), kGone<T>);
  while (true) {
    T most = kGone<T>;
    for (int64_t k = 0; k < count; ++k) most = maximum(best[k], most);
    if (!(most > least)) return;
    int64_t from = -1;
    int lane = 0;
    for (int64_t k = 0; k < count; ++k) {
      if (best[k] != most) continue;
      const int l = blocks[k].first_of(most);
      if (from < 0 || blocks[k].order[l] < blocks[from].order[lane]) from = k, lane = l;
    }
    Block<T>& home = blocks[from];
    const Box<T> selected{home.x1[lane], home.y1[lane], home.x2[lane], home.y2[lane]};
    const T area = home.area[lane];
    scores[home.order[lane]] = most;
    home.score[lane] = kGone<T>;
    best[from] = home.best();
    for (int64_t k = 0; k < count; ++k) {
      // a negative threshold counts boxes apart, too
      if (threshold >= 0 && !(intersection(blocks[k].hull, selected) > 0)) continue;
      blocks[k].template apply<method>(selected, area, threshold, sigma, least);
      best[k] = blocks[k].best();
    }
  }
}

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores, std::optional<Tensor> idxs,
                                    double iou_threshold, double sigma, double score_threshold, std::string method) {
  const Params params = validate(boxes, scores, idxs, iou_threshold, sigma, score_threshold, method);
  const ScalarType type = geometry_type(boxes, scores);
  const Tensor plain = contiguous_as(boxes, type), plain_scores = contiguous_as(scores, type);
  const int64_t n = boxes.size(0);
  nms::Groups groups;
  std::vector<int64_t> all(n);
  std::iota(all.begin(), all.end(), 0);
  if (idxs) {
    const Tensor classes = contiguous_as(*idxs, ScalarType::Long);
    groups = nms::group_by_class(classes.const_data_ptr<int64_t>(), all.data(), n);
  } else {
    groups = {all, {0, n}};
  }
  return dispatch_geometry(type, [&](auto t) -> std::tuple<Tensor, Tensor> {
    using T = typename decltype(t)::type;
    const auto* rows = reinterpret_cast<const Box<T>*>(plain.const_data_ptr<T>());
    const T* given = plain_scores.const_data_ptr<T>();
    std::vector<T> final(n);
    nms::for_each_class(groups, n, [&](int64_t g) {
      const int64_t begin = groups.offsets[g], size = groups.offsets[g + 1] - begin;
      const int64_t* members = groups.members.data() + begin;
      std::vector<Box<T>> class_boxes(size);
      std::vector<T> class_scores(size);
      for (int64_t i = 0; i < size; ++i) class_boxes[i] = rows[members[i]], class_scores[i] = given[members[i]];
      dispatch_method(params.method, [&](auto m) {
        vectorized(
            [&]() __attribute__((always_inline)) { soften<decltype(m)::value>(class_boxes, class_scores, params); });
      });
      for (int64_t i = 0; i < size; ++i) final[members[i]] = class_scores[i];
    });
    const std::vector<int64_t> order = rank_descending(final.data(), n, [](T score) { return score != kGone<T>; });
    const int64_t kept = int64_t(order.size());
    Tensor keep = empty_vector(boxes, kept, ScalarType::Long);
    Tensor rescored = empty_vector(plain_scores, kept, type);
    std::copy(order.begin(), order.end(), keep.mutable_data_ptr<int64_t>());
    T* out = rescored.mutable_data_ptr<T>();
    for (int64_t i = 0; i < kept; ++i) out[i] = final[order[i]];
    return {keep, as_type(rescored, scores.scalar_type())};
  });
}

}  // namespace
}  // namespace fastvision::soft_nms

STABLE_TORCH_LIBRARY_IMPL(fastvision, CPU, m) { m.impl("soft_nms", TORCH_BOX(&fastvision::soft_nms::soft_nms)); }
