#include "core/batch_parts.h"

#include <gtest/gtest.h>

namespace diffusers {
namespace {

/// The model of the MNIST preset.
BatchCall digits(int64_t batch_size) {
  return {.batch_size = batch_size, .positions = 28 * 28, .parameters = 686769, .gradients = 686769};
}

TEST(AutomaticParts, GivesEachThreadAPartOfABatchOfDigits) {
  EXPECT_EQ(automatic_parts(digits(64), 1), 1);
  EXPECT_EQ(automatic_parts(digits(32), 2), 2);
  EXPECT_EQ(automatic_parts(digits(64), 2), 2);
  EXPECT_EQ(automatic_parts(digits(128), 4), 4);
  EXPECT_EQ(automatic_parts(digits(64), 64), 64);
  EXPECT_EQ(automatic_parts(digits(2), 2), 2);
}

TEST(AutomaticParts, GivesAThreadSeveralSmallPartsOfALargeBatch) {
  EXPECT_EQ(automatic_parts(digits(84), 2), 4);  // 42 rows have 32,928 positions
  EXPECT_EQ(automatic_parts(digits(82), 2), 2);  // 41 rows have 32,144
  EXPECT_EQ(automatic_parts(digits(128), 2), 4);
  EXPECT_EQ(automatic_parts(digits(256), 2), 8);
  EXPECT_EQ(automatic_parts(digits(256), 4), 8);
  BatchCall call{.batch_size = 128, .positions = 4096, .parameters = 1 << 24, .gradients = 1 << 24};
  EXPECT_EQ(automatic_parts(call, 4), 4);  // the gradients of 16 parts would be too large
  call.gradients = 0;
  EXPECT_EQ(automatic_parts(call, 4), 16);
  call.positions = 1 << 20;
  EXPECT_EQ(automatic_parts(call, 4), 128);  // one row
}

TEST(AutomaticParts, KeepsABatchThatDoesNotFillTheThreads) {
  EXPECT_EQ(automatic_parts(digits(1), 2), 1);
  EXPECT_EQ(automatic_parts(digits(3), 4), 3);   // three of four threads compute
  EXPECT_EQ(automatic_parts(digits(2), 4), 1);   // two of four would wait
  EXPECT_EQ(automatic_parts(digits(5), 4), 1);   // 2 + 2 + 1 rows: 5 of 8
  EXPECT_EQ(automatic_parts(digits(7), 4), 4);   // 2 + 2 + 2 + 1 rows: 7 of 8
  EXPECT_EQ(automatic_parts(digits(9), 8), 1);   // 5 parts of 2 rows
  EXPECT_EQ(automatic_parts(digits(30), 8), 8);  // parts of 4 rows, the last of 2
}

TEST(AutomaticParts, KeepsSmallCalls) {
  EXPECT_EQ(automatic_parts({.batch_size = 4, .positions = 64, .parameters = 30000}, 2), 1);
  EXPECT_EQ(automatic_parts({.batch_size = 8, .positions = 32, .parameters = 100000000}, 2), 1);
}

TEST(AutomaticParts, KeepsModelsWhoseGradientsAreLarge) {
  BatchCall call{.batch_size = 2, .positions = 4096, .parameters = 859520964, .gradients = 859520964};
  EXPECT_EQ(automatic_parts(call, 2), 1);
  call = {.batch_size = 2, .positions = 4096, .parameters = 35000000, .gradients = 35000000};
  EXPECT_EQ(automatic_parts(call, 2), 1);
  call.gradients = 797184;  // LoRA
  EXPECT_EQ(automatic_parts(call, 2), 2);
  call.gradients = 0;  // sampling
  EXPECT_EQ(automatic_parts(call, 2), 2);
}

TEST(AutomaticParts, TakesLargeNumbersWithoutOverflow) {
  const int64_t large = int64_t{1} << 40;
  EXPECT_EQ(
      automatic_parts({.batch_size = large, .positions = 4096, .parameters = large, .gradients = large}, 2),
      1);
  EXPECT_EQ(automatic_parts({.batch_size = large, .positions = 4096, .parameters = large}, 2), large / 8);
}

}  // namespace
}  // namespace diffusers
