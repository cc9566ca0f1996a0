#include "examples/text_to_image/digit_styles.h"

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace {

using diffusers::Tensor;

TEST(DigitStyles, ADotInTheMiddleBecomesASquareOfThreePixels) {
  Tensor images = -at::ones({1, 1, 9, 9});
  images[0][0][4][4] = 1;
  Tensor expected = -at::ones({1, 1, 9, 9});
  expected.narrow(2, 3, 3).narrow(3, 3, 3).fill_(1);
  EXPECT_TRUE(at::allclose(bold_slanted(images), expected));
}

TEST(DigitStyles, RowsAboveTheMiddleMoveToTheRight) {
  Tensor images = -at::ones({1, 1, 9, 9});
  images[0][0][0][4] = images[0][0][4][4] = images[0][0][8][4] = 1;
  const Tensor rows = (bold_slanted(images) + 1)[0][0];
  const Tensor columns = at::arange(9, at::kFloat);
  const auto center = [&](int64_t row) {
    return ((rows[row] * columns).sum() / rows[row].sum()).item<double>();
  };
  EXPECT_NEAR(center(0), 6, 1e-4);  // half of its distance of 4 rows
  EXPECT_NEAR(center(4), 4, 1e-4);
  EXPECT_NEAR(center(8), 2, 1e-4);
}

TEST(DigitStyles, ImagesAreChosenInTurns) {
  const Tensor labels = at::tensor({1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0}, at::kLong);
  EXPECT_EQ(first_of_digit(labels, 0, 2), (std::vector<int64_t>{1, 11}));
  EXPECT_EQ(first_of_digit(labels, 0, 0), std::vector<int64_t>());
  EXPECT_EQ(first_of_each_digit(labels, 12), (std::vector<int64_t>{1, 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 2}));
  EXPECT_EQ(first_of_each_digit(labels, 3), (std::vector<int64_t>{1, 0, 3}));
}

TEST(DigitStyles, TooFewImagesOfADigitAreNamed) {
  const Tensor labels = at::tensor({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0}, at::kLong);
  try {
    first_of_each_digit(labels, 12);
    FAIL();
  } catch (const diffusers::ConfigError& error) {
    EXPECT_EQ(std::string(error.what()), "--num_images needs 2 images of the digit 1, but there are 1");
  }
}

}  // namespace
