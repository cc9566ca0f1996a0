#include <cstddef>
#include <vector>

#include <diffusers/training/step_rows.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;

Tensor rows_given(bool has_class_images, const std::vector<int64_t>& sizes, int64_t samples) {
  StepRows rows;
  rows.begin_step({.samples = samples, .has_class_images = has_class_images});
  Tensor drawn;
  std::vector<Tensor> given;
  for (const int64_t size : sizes) {
    rows.next(at::zeros({size, 2}), [&](at::IntArrayRef shape) { drawn = at::arange(shape[0]); });
    given.push_back(rows.of(drawn));
  }
  return at::cat(given);
}

TEST(StepRows, BatchesTakeRowsInTheirOrder) {
  expect_equal(rows_given(false, {2, 4, 2}, 8), at::arange(8), "rows");
  StepRows rows;
  rows.begin_step({.samples = 1});
  EXPECT_FALSE(rows.of({}).defined());
}

TEST(StepRows, ClassImagesTakeRowsOfTheSecondHalf) {
  expect_equal(rows_given(true, {8}, 8), at::arange(8), "one batch");
  expect_equal(rows_given(true, {2, 4, 2}, 8), at::tensor({0, 4, 1, 2, 5, 6, 3, 7}, at::kLong), "batches");
}

/// Draws numbers for batches, as a task does.
class DrawnRows {
 public:
  explicit DrawnRows(const StepContext& context) { rows_.begin_step(context); }

  /// Returns the numbers of the next batch.
  Tensor next(at::IntArrayRef shape) {
    const Tensor x0 = at::empty(shape);
    const int64_t first = rows_.next(x0, [&](at::IntArrayRef all) {
      const int64_t count = c10::multiply_integers(all);
      drawn_ = at::arange(count_, count_ + count).view(all);
      count_ += count;
    });
    return drawn_.narrow(0, first, shape[0]);
  }

 private:
  StepRows rows_;
  Tensor drawn_;
  int64_t count_ = 0;
};

TEST(StepRows, ProcessesGetTheRowsThatOneProcessDraws) {
  // Two global batches of 4 and 3 samples, of different shapes, in two updates.
  const std::vector<std::vector<int64_t>> shapes{{4, 2}, {3, 2}};
  DrawnRows one({.samples = 7});
  std::vector<Tensor> expected;
  for (int update = 0; update < 2; ++update)
    for (const auto& shape : shapes) expected.push_back(one.next(shape));

  const std::vector<std::vector<BatchRows>> rows{{{0, 2, 4}, {0, 1, 3}}, {{2, 4, 4}, {1, 3, 3}}};
  for (const std::vector<BatchRows>& own : rows) {
    DrawnRows process({.samples = 7, .rows = own});
    for (std::size_t call = 0; call < expected.size(); ++call) {
      const BatchRows& batch = own[call % own.size()];
      const Tensor drawn = process.next({batch.end - batch.begin, 2});
      EXPECT_TRUE(drawn.equal(expected[call].slice(0, batch.begin, batch.end))) << call;
    }
  }
}

TEST(StepRows, BatchesOfOtherShapesAreDrawnAlikeInAllProcesses) {
  DrawnRows one({.samples = 4});
  const Tensor wide = one.next({2, 3});
  const Tensor narrow = one.next({2, 1});
  DrawnRows second({.samples = 4, .rows = {{1, 2, 2}, {1, 2, 2}}});
  EXPECT_TRUE(second.next({1, 3}).equal(wide.slice(0, 1, 2)));
  EXPECT_TRUE(second.next({1, 1}).equal(narrow.slice(0, 1, 2)));
}

TEST(StepRows, ProcessesGetClassImagesOfTheSecondHalf) {
  // A global batch of 3 instances and 3 class images on two processes.
  std::vector<Tensor> given;
  for (const BatchRows& own : {BatchRows{0, 2, 6}, BatchRows{2, 6, 6}}) {
    StepRows rows;
    rows.begin_step({.samples = 6, .has_class_images = true, .rows = {own}});
    Tensor drawn;
    rows.next(at::zeros({own.end - own.begin, 2}),
              [&](at::IntArrayRef shape) { drawn = at::arange(shape[0]); });
    given.push_back(rows.of(drawn));
  }
  expect_equal(given[0], at::tensor({0, 3}, at::kLong), "first process");
  expect_equal(given[1], at::tensor({1, 2, 4, 5}, at::kLong), "second process");
}

}  // namespace
}  // namespace diffusers
