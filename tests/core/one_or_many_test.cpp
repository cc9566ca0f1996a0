#include <cstdint>
#include <type_traits>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/one_or_many.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

TEST(OneOrMany, ConvertsToItsSingleValue) {
  const OneOrMany<int64_t> one = 8;
  const int64_t heads = one;
  EXPECT_EQ(heads, 8);
  EXPECT_EQ(one * 2, 16);
  const OneOrMany<int64_t> list_of_one = {5};
  const int64_t five = list_of_one;
  EXPECT_EQ(five, 5);
  const OneOrMany<bool> flag = true;
  EXPECT_EQ(flag ? 1 : 0, 1);
  static_assert(!std::is_convertible_v<NestedOneOrMany, int64_t>);
}

TEST(OneOrMany, DoesNotConvertWithoutOneValue) {
  const OneOrMany<int64_t> many = {5, 10, 20};
  expect_throws_with<ConfigError>([&] { [[maybe_unused]] const int64_t value = many; },
                                  "expected a config field with a single value, found 3: 5, 10, 20");
  expect_throws_with<ConfigError>([] { [[maybe_unused]] const int64_t value = OneOrMany<int64_t>(); },
                                  "found none");
}

TEST(OneOrMany, ComparesWithValuesAndLists) {
  const OneOrMany<int64_t> one = 8;
  EXPECT_TRUE(one == 8);
  EXPECT_FALSE(one == 9);
  EXPECT_TRUE(one == OneOrMany<int64_t>(8));
  const OneOrMany<int64_t> list = {8};
  EXPECT_FALSE(list == 8);
  EXPECT_FALSE(list == one);
  EXPECT_EQ(one.expand(3), (std::vector<int64_t>{8, 8, 8}));
  EXPECT_EQ(list.expand(3), (std::vector<int64_t>{8}));
}

TEST(NestedOneOrMany, TakesNumbersListsListsOfListsAndAFieldOfOneLevel) {
  const OneOrMany<int64_t> one = 8;
  const NestedOneOrMany of_one = one;
  EXPECT_EQ(of_one, NestedOneOrMany(8));
  const NestedOneOrMany of_list = OneOrMany<int64_t>{1, 2};
  const NestedOneOrMany expected = {1, 2};
  EXPECT_EQ(of_list, expected);
  EXPECT_TRUE(NestedOneOrMany(OneOrMany<int64_t>()).empty());
}

}  // namespace
}  // namespace diffusers
