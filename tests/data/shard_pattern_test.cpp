#include "data/shard_pattern.h"

#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using Names = std::vector<std::string>;

// The expected names are those of WebDataset's expand_urls.
TEST(ShardPattern, ExpandsBracesAsWebDataset) {
  EXPECT_EQ(expand_shards("a.tar"), (Names{"a.tar"}));
  EXPECT_EQ(expand_shards("d-{000008..000011}.tar"),
            (Names{"d-000008.tar", "d-000009.tar", "d-000010.tar", "d-000011.tar"}));
  EXPECT_EQ(expand_shards("item{1..3}"), (Names{"item1", "item2", "item3"}));
  EXPECT_EQ(expand_shards("{07..10}"), (Names{"07", "08", "09", "10"}));
  EXPECT_EQ(expand_shards("{a..g..2}"), (Names{"a", "c", "e", "g"}));
  EXPECT_EQ(expand_shards("{4..1}"), (Names{"4", "3", "2", "1"}));
  EXPECT_EQ(expand_shards("{0..10..5}"), (Names{"0", "5", "10"}));
  EXPECT_EQ(expand_shards("{2..-1}"), (Names{"2", "1", "0", "-1"}));
  EXPECT_EQ(expand_shards("{train,val}-{0..1}"), (Names{"train-0", "train-1", "val-0", "val-1"}));
  EXPECT_EQ(expand_shards("python{2.{5..6},3.{2,3}}"),
            (Names{"python2.5", "python2.6", "python3.2", "python3.3"}));
  EXPECT_EQ(expand_shards("index.html{,.backup}"), (Names{"index.html", "index.html.backup"}));
  EXPECT_EQ(expand_shards("{a}{1..2}{}"), (Names{"{a}1{}", "{a}2{}"}));
  EXPECT_EQ(expand_shards("{2.5..2.7}"), (Names{"{2.5..2.7}"}));
  EXPECT_EQ(expand_shards("{1\\{2,3}"), (Names{"1{2", "3"}));
  EXPECT_EQ(expand_shards("a{1..2}::b"), (Names{"a1", "a2", "b"}));
  EXPECT_EQ(expand_shards("{0..999999}").size(), 1'000'000U);
}

TEST(ShardPattern, OtherPatternsAreRefused) {
  for (const char* pattern : {"{1{2,3}", "a}", "}{", "a{0..3", "a.tar::b{"})
    expect_throws_with<ConfigError>([&] { expand_shards(pattern); }, "has unbalanced braces");
  for (const char* pattern : {"", "a::", "{,a}"})
    expect_throws_with<ConfigError>([&] { expand_shards(pattern); }, "gives an empty name");
  for (const char* pattern :
       {"{0..1000000}", "{0..2000000000}", "{0..99}{0..99}{0..999}", "{0..999999}::{0..999999}"})
    expect_throws_with<ConfigError>([&] { expand_shards(pattern); }, "for more than 1000000 files");
  expect_throws_with<ConfigError>([] { expand_shards(std::string(40, '{') + "a,b" + std::string(40, '}')); },
                                  "more than 32 nested braces");
}

}  // namespace
}  // namespace diffusers
