#include "training/distributed/parameter_shards.h"

#include <cstdint>
#include <vector>

#include <diffusers/core/error.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace diffusers {
namespace {

std::vector<Tensor> tensors_of_sizes(const std::vector<int64_t>& sizes) {
  std::vector<Tensor> tensors;
  for (const int64_t size : sizes) tensors.push_back(at::zeros({size}));
  return tensors;
}

std::vector<int64_t> owners_of(const std::vector<Tensor>& tensors, const ParameterShards& shards) {
  std::vector<int64_t> owners;
  for (const Tensor& tensor : tensors) owners.push_back(shards.owner(tensor));
  return owners;
}

TEST(ParameterShards, GivesTheLargestFirstToTheProcessWithTheFewestBytes) {
  const std::vector<Tensor> tensors = tensors_of_sizes({1, 6, 2, 5, 4, 6});
  const ParameterShards shards(tensors, 3, 1);
  // 6, 6 and 5 go to 0, 1 and 2; then 4 to 2; then 2 to 0, and 1 to 1.
  EXPECT_EQ(owners_of(tensors, shards), (std::vector<int64_t>{1, 0, 0, 2, 2, 1}));
  EXPECT_EQ(shards.rank(), 1);
  EXPECT_TRUE(shards.is_own(tensors[0]));
  EXPECT_FALSE(shards.is_own(tensors[1]));
}

TEST(ParameterShards, CountsBytesAndNotElements) {
  const Tensor large = at::zeros({3}, at::kDouble);
  const Tensor small = at::zeros({5});
  const Tensor smallest = at::zeros({2});
  const ParameterShards shards({small, large, smallest}, 2, 0);
  EXPECT_EQ(owners_of({large, small, smallest}, shards), (std::vector<int64_t>{0, 1, 1}));
}

TEST(ParameterShards, ATensorThatIsGivenTwiceIsCountedOnce) {
  const std::vector<Tensor> tensors = tensors_of_sizes({4, 3, 2});
  const ParameterShards shards({tensors[0], tensors[0], tensors[1], tensors[2]}, 2, 0);
  EXPECT_EQ(owners_of(tensors, shards), (std::vector<int64_t>{0, 1, 1}));
}

TEST(ParameterShards, KnowsOnlyItsTensors) {
  const std::vector<Tensor> tensors = tensors_of_sizes({4});
  const ParameterShards shards(tensors, 4, 3);
  const Tensor other = at::zeros({4});
  EXPECT_TRUE(shards.contains(tensors[0]));
  EXPECT_FALSE(shards.contains(other));
  EXPECT_FALSE(shards.is_own(other));
  EXPECT_THROW(shards.owner(other), Error);
}

TEST(ParameterShards, BucketsHoldOneOwnerAndDtypeUpToTheCap) {
  std::vector<Tensor> tensors = tensors_of_sizes({4, 4, 4, 4, 4, 4});
  tensors.push_back(at::zeros({2}, at::kDouble));
  const ParameterShards shards(tensors, 2, 0);
  const std::vector<ShardBucket> buckets = shards.buckets(tensors, 2 * 16);
  std::size_t found = 0;
  for (const ShardBucket& bucket : buckets) {
    int64_t numel = 0;
    for (const Tensor& tensor : bucket.parameters) {
      EXPECT_EQ(shards.owner(tensor), bucket.owner);
      EXPECT_EQ(tensor.scalar_type(), bucket.parameters.front().scalar_type());
      numel += tensor.numel();
    }
    EXPECT_EQ(numel, bucket.numel);
    EXPECT_LE(bucket.parameters.size(), 2U);
    found += bucket.parameters.size();
  }
  EXPECT_EQ(found, tensors.size());
  EXPECT_EQ(buckets.size(), 5U);
  // A tensor above the cap has a bucket of its own.
  EXPECT_EQ(shards.buckets(tensors, 1).size(), tensors.size());
}

TEST(ParameterShards, APartOfABucketHasTheOrderOfTheParameter) {
  const Tensor flat = at::arange(30, at::kFloat);
  const Tensor rows = at::zeros({3, 4});
  EXPECT_TRUE(part_of_flat(flat, 2, rows).equal(at::arange(2, 14, at::kFloat).view({3, 4})));
  const Tensor columns = at::zeros({4, 3}).t();
  const Tensor part = part_of_flat(flat, 14, columns);
  EXPECT_EQ(part.strides(), columns.strides());
  EXPECT_TRUE(part.equal(at::arange(14, 26, at::kFloat).view({4, 3}).t()));
  EXPECT_TRUE(part.is_alias_of(flat));
  const Tensor with_gaps = at::zeros({2, 8}).slice(1, 0, 8, 2);
  EXPECT_TRUE(part_of_flat(flat, 1, with_gaps).equal(at::arange(1, 9, at::kFloat).view({2, 4})));
}

}  // namespace
}  // namespace diffusers
