#include <string>

#include <diffusers/core/error.h>
#include <diffusers/training/process_group.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

// Groups of several processes: tests/distributed.

namespace diffusers {
namespace {

TEST(ProcessGroup, OneProcessExchangesNothing) {
  const ProcessGroup group;
  EXPECT_EQ(group.rank(), 0);
  EXPECT_EQ(group.world_size(), 1);
  EXPECT_EQ(group.local_rank(), 0);
  EXPECT_TRUE(group.is_main());
  EXPECT_FALSE(group.is_connected());
  const Tensor tensor = at::arange(3);
  group.broadcast(tensor);
  group.all_reduce(tensor);
  group.barrier();
  EXPECT_TRUE(tensor.equal(at::arange(3)));
  EXPECT_EQ(group.broadcast("text"), "text");
  EXPECT_EQ(group.all_gather("text"), std::vector<std::string>{"text"});
  EXPECT_TRUE(group.broadcast(TensorMap{{"a", tensor}}).at("a").is_same(tensor));
  EXPECT_EQ(group.options().zero_stage, 0);
  group.abort("no reason");
  EXPECT_EQ(group.broadcast("text"), "text");
}

std::string error_of(const ProcessGroupOptions& options) {
  try {
    ProcessGroup::from_environment(options);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST(ProcessGroup, OptionsOutOfRangeAreNamed) {
  EXPECT_NE(error_of({.timeout_seconds = 0}).find("timeout_seconds of the process group is 0"),
            std::string::npos);
  EXPECT_NE(error_of({.bucket_cap_mb = 0}).find("bucket_cap_mb is 0"), std::string::npos);
  EXPECT_NE(error_of({.zero_stage = 3}).find("zero_stage is 3, expected 0, 1 or 2"), std::string::npos);
  EXPECT_NE(error_of({.zero_stage = -1}).find("zero_stage is -1"), std::string::npos);
  EXPECT_EQ(enum_name(GradientCompression::kBf16), "bf16");
}

}  // namespace
}  // namespace diffusers
