// Loading directly to a CUDA device.

#include <diffusers/core/random.h>
#include <diffusers/io/safetensors.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/on_cuda.h"

namespace diffusers {
namespace {

TEST(OnCuda, SafetensorsLoadToTheDevice) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  const test::TemporaryFolder folder;
  manual_seed(1);
  const TensorMap tensors{{"weight", at::randn({300, 70})},
                          {"half", at::randn({5}).to(at::kHalf)},
                          {"count", at::arange(7)},
                          {"empty", at::empty({0, 3})}};
  save_safetensors(tensors, folder / "model.safetensors");
  const at::Device device(at::kCUDA, 0);
  const TensorMap loaded = load_safetensors(folder / "model.safetensors", {.device = device});
  ASSERT_EQ(loaded.size(), tensors.size());
  for (const auto& [name, tensor] : loaded) {
    EXPECT_EQ(tensor.device(), device) << name;
    test::expect_equal(tensor.cpu(), tensors.at(name), name);
  }
  const TensorMap converted =
      load_safetensors(folder / "model.safetensors", {.device = device, .dtype = at::kBFloat16});
  test::expect_equal(converted.at("weight").cpu(), tensors.at("weight").to(at::kBFloat16), "bfloat16");
}

}  // namespace
}  // namespace diffusers
