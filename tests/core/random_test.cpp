#include <string>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;

TEST(Random, CpuGeneratorDrawsTheBitsThatPythonDraws) {
  const auto golden = test::load_golden("io.safetensors");
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1234}, (uint64_t{1} << 63) + 5}) {
    const std::string prefix = "random/" + std::to_string(seed) + "/";
    Generator generator = make_generator(seed);
    expect_equal(randn_tensor({3, 7}, generator), golden[prefix + "randn"], prefix + "randn");
    expect_equal(at::rand({5}, generator), golden[prefix + "rand"], prefix + "rand");
    expect_equal(at::randint(1000, {9}, generator, at::kLong), golden[prefix + "randint"],
                 prefix + "randint");
    expect_equal(randn_tensor({20}, generator, at::kCPU, at::kHalf), golden[prefix + "half"],
                 prefix + "half");
    expect_equal(randn_tensor({40}, generator), golden[prefix + "many"], prefix + "many");
  }
}

TEST(Random, ManualSeedSetsTheGlobalGenerator) {
  manual_seed(7);
  expect_equal(randn_tensor({6}), test::load_golden("io.safetensors")["random/global"], "global");
  manual_seed(7);
  expect_equal(randn_tensor({6}, Generator()), test::load_golden("io.safetensors")["random/global"],
               "undefined generator");
}

}  // namespace
}  // namespace diffusers
