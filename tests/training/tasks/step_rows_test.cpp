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

}  // namespace
}  // namespace diffusers
