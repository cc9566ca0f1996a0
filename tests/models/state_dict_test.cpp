#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/state_dict.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/unet/unet_2d_golden.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

/// A module that a program defines, with a buffer and a child.
class StatefulImpl : public torch::nn::Module {
 public:
  StatefulImpl() {
    child = register_module("child", layers::Linear(2, 3));
    scale = register_parameter("scale", torch::ones({2}));
    running = register_buffer("running", torch::zeros({1}, torch::kInt64));
    register_parameter("none", Tensor(), /*requires_grad=*/false);
  }
  layers::Linear child{nullptr};
  Tensor scale;
  Tensor running;
};
TORCH_MODULE(Stateful);

TensorMap stateful_tensors() {
  return {{"scale", torch::tensor({2.0f, 3.0f})},
          {"running", torch::tensor({7}, torch::kInt64)},
          {"child.weight", torch::arange(6, torch::kFloat64).view({3, 2})},
          {"child.bias", torch::tensor({1.0f, 2.0f, 3.0f})}};
}

TEST(StateDict, HasParametersAndBuffersInPythonsOrderAndSharesMemory) {
  const Stateful module;
  const TensorMap state = state_dict(module);
  // The order of torch.nn.Module.state_dict: the parameters of a module, its buffers, then its children.
  EXPECT_EQ(state.keys(), (std::vector<std::string>{"scale", "running", "child.weight", "child.bias"}));
  EXPECT_FALSE(state["scale"].requires_grad());
  EXPECT_EQ(state["scale"].data_ptr(), module->scale.data_ptr());
  const std::shared_ptr<StatefulImpl>& pointer = module.ptr();
  EXPECT_EQ(state_dict(pointer).size(), 4U);
  EXPECT_EQ(state_dict(*pointer).size(), 4U);
}

TEST(StateDict, OfAModelHasTheKeysOfDiffusers) {
  const auto model = UNet2DModel::from_pretrained(golden_path("unet_2d_plain"));
  const auto file = load_safetensors(golden_path("unet_2d_plain/diffusion_pytorch_model.safetensors"));
  const TensorMap state = state_dict(model);
  EXPECT_EQ(state.size(), file.size());
  for (const auto& [name, tensor] : file) expect_equal(state.at(name), tensor, name);
}

TEST(LoadStateDict, CopiesIntoTheModuleAndKeepsItsDtype) {
  Stateful module;
  const void* memory = module->scale.data_ptr();
  const IncompatibleKeys keys = load_state_dict(module, stateful_tensors(), {.strict = true});
  EXPECT_TRUE(keys.missing_keys.empty());
  EXPECT_TRUE(keys.unexpected_keys.empty());
  expect_equal(module->scale, torch::tensor({2.0f, 3.0f}));
  expect_equal(module->running, torch::tensor({7}, torch::kInt64));
  expect_equal(module->child->weight, torch::arange(6, torch::kFloat32).view({3, 2}));
  EXPECT_EQ(module->scale.data_ptr(), memory);
  EXPECT_TRUE(module->scale.requires_grad());
}

TEST(LoadStateDict, StrictNamesWhatIsMissingAndUnexpectedAndCopiesNothing) {
  Stateful module;
  TensorMap tensors = stateful_tensors();
  tensors.erase("child.bias");
  tensors.erase("running");
  tensors["extra.weight"] = torch::zeros({1});
  for (const std::string part : {"missing: running, child.bias", "unexpected: extra.weight", "StatefulImpl"})
    expect_throws_with<TensorError>([&] { load_state_dict(module, tensors); }, part);
  expect_equal(module->scale, torch::ones({2}));

  const IncompatibleKeys keys = load_state_dict(module, tensors, {.strict = false});
  EXPECT_EQ(keys.missing_keys, (std::vector<std::string>{"running", "child.bias"}));
  EXPECT_EQ(keys.unexpected_keys, std::vector<std::string>{"extra.weight"});
  expect_equal(module->scale, torch::tensor({2.0f, 3.0f}));
}

TEST(LoadStateDict, RefusesShapesAndUndefinedTensorsByNameEvenIfNotStrict) {
  Stateful module;
  TensorMap tensors = stateful_tensors();
  tensors["child.weight"] = torch::zeros({2, 3});
  expect_throws_with<TensorError>([&] { load_state_dict(module, tensors, {.strict = false}); },
                                  "child.weight is [2, 3], expected [3, 2]");
  tensors["child.weight"] = Tensor();
  expect_throws_with<TensorError>([&] { load_state_dict(module, tensors); },
                                  "child.weight is an undefined tensor");
  expect_equal(module->scale, torch::ones({2}));
}

TEST(LoadStateDict, MovesWeightsBetweenModels) {
  auto from = make_case("plain");
  perturb(from);
  UNet2DModel to(from->config());
  load_state_dict(to, state_dict(from));
  const auto sample = torch::randn({1, 1, 8, 8});
  const torch::NoGradGuard no_grad;
  expect_equal(to->forward(sample, 3).sample, from->forward(sample, 3).sample);
}

}  // namespace
}  // namespace diffusers::test
