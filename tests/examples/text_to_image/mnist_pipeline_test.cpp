#include "examples/text_to_image/mnist_pipeline.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace {

using diffusers::TensorMap;

TEST(MnistPipeline, TensorsAreComparedByNameAndValue) {
  const TensorMap map{{"a", at::ones({2})}, {"b", at::zeros({3})}};
  EXPECT_TRUE(are_equal(map, {{"b", at::zeros({3})}, {"a", at::ones({2})}}));
  EXPECT_FALSE(are_equal(map, {{"a", at::ones({2})}}));
  EXPECT_FALSE(are_equal(map, {{"a", at::ones({2})}, {"c", at::zeros({3})}}));
  EXPECT_FALSE(are_equal(map, {{"a", at::ones({2})}, {"b", at::zeros({2})}}));
  EXPECT_FALSE(are_equal(map, {{"a", at::ones({2})}, {"b", at::full({3}, 1e-30)}}));
}

}  // namespace
