#include <map>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

TEST(TensorMap, KeepsTheOrderOfInsertion) {
  TensorMap map{{"b", at::ones({1})}, {"a", at::ones({2})}};
  map.insert("c", at::ones({3}));
  map["d"] = at::ones({4});
  map.insert("b", at::ones({5}));
  EXPECT_EQ(map.keys(), (std::vector<std::string>{"b", "a", "c", "d"}));
  EXPECT_EQ(map.at("b").numel(), 5);
  EXPECT_EQ(map.size(), 4U);
  EXPECT_TRUE(map.contains("a"));
  EXPECT_EQ(map.count("x"), 0U);
  EXPECT_EQ(map.find("x"), map.end());
  EXPECT_EQ(map.find("c")->second.numel(), 3);
}

TEST(TensorMap, EraseKeepsTheOthersFindable) {
  TensorMap map{{"a", at::ones({1})}, {"b", at::ones({2})}, {"c", at::ones({3})}};
  EXPECT_TRUE(map.erase("a"));
  EXPECT_FALSE(map.erase("a"));
  EXPECT_EQ(map.at("b").numel(), 2);
  EXPECT_EQ(map.at("c").numel(), 3);
  EXPECT_EQ(map.keys(), (std::vector<std::string>{"b", "c"}));
}

TEST(TensorMap, AMissingNameIsAnErrorThatNamesIt) {
  const TensorMap map{{"a", at::ones({1})}};
  expect_throws_with<Error>([&] { (void)map.at("weight"); }, "\"weight\"");
  expect_throws_with<Error>([&] { (void)map["weight"]; }, "\"weight\"");
}

TEST(TensorMap, TakesOtherMaps) {
  const std::map<std::string, at::Tensor> ordered{{"x", at::ones({1})}, {"y", at::ones({2})}};
  EXPECT_EQ(TensorMap(ordered).at("y").numel(), 2);
}

TEST(Describe, NamesDtypeShapeAndDevice) {
  EXPECT_EQ(describe(at::ones({2, 3}, at::kHalf)), "float16 [2, 3] on cpu");
  EXPECT_EQ(describe(at::ones({}, at::kLong)), "int64 [] on cpu");
  EXPECT_EQ(describe(at::Tensor()), "an undefined tensor");
}

}  // namespace
}  // namespace diffusers
