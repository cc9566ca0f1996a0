#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/io/safetensors.h>
#include <diffusers/models/lpips.h>
#include <diffusers/models/state_dict.h>

#include <gtest/gtest.h>
#include <torch/nn/modules/conv.h>
#include <torch/types.h>

#include "models/vae/training_golden.h"
#include "support/golden.h"
#include "support/log_capture.h"

namespace diffusers::test {
namespace {

void compare_lpips_with_python(const Json& one, at::ScalarType dtype, double tolerance) {
  const auto& golden = training_golden();
  const auto name = one.at("name").get<std::string>();
  const auto shape = one.at("shape").get<std::vector<int64_t>>();
  const LPIPS lpips = golden_lpips(one.at("net").get<std::string>(), dtype);
  const Generator generator = make_generator(kGoldenDataSeed);
  const Tensor x = drawn_images(generator, shape).to(dtype).requires_grad_(true);
  const Tensor y = drawn_images(generator, shape).to(dtype).requires_grad_(true);
  const Tensor value = lpips(x, y);
  EXPECT_EQ(value.sizes(), at::IntArrayRef({shape[0], 1, 1, 1})) << name;
  const double scale = golden[name + ".value"].abs().max().item<double>();
  expect_close(value, golden[name + ".value"], tolerance, tolerance * scale, name);
  (value.flatten() * torch::arange(1, shape[0] + 1)).sum().backward();
  // The gradients are stored in float32.
  const double of_gradient = std::max(tolerance, 1e-6);
  for (const auto& [image, key] : {std::pair(x, ".grad_x"), std::pair(y, ".grad_y")}) {
    const Tensor& expected = golden[name + key];
    expect_close(image.grad(), expected, of_gradient, of_gradient * expected.abs().max().item<double>(),
                 name + key);
  }
}

bool has_message(const LogCapture& log, std::string_view part) {
  for (const std::string& message : log.messages())
    if (message.find(part) != std::string::npos) return true;
  return false;
}

TEST(LPIPS, ValueAndGradientMatchPython) {
  const Json cases = training_cases("lpips");
  ASSERT_EQ(cases.size(), 4U);  // AlexNet and VGG16, whole images and small gray ones
  for (const Json& one : cases) {
    compare_lpips_with_python(one, at::kDouble, 1e-9);
    compare_lpips_with_python(one, at::kFloat, 1e-4);
  }
}

TEST(LPIPS, IsFrozenAndZeroForEqualImages) {
  const LPIPS lpips({.net = "alex"});
  for (const Tensor& parameter : lpips->parameters()) EXPECT_FALSE(parameter.requires_grad());
  EXPECT_FALSE(lpips->is_training());
  const Tensor x = drawn_images(make_generator(1), {2, 3, 64, 64});
  expect_equal(lpips(x, x), torch::zeros({2, 1, 1, 1}));
  EXPECT_EQ(lpips->features(x).size(), 5U);
}

TEST(LPIPS, GradientIsFiniteWhereNoFeatureIsActive) {
  LPIPS lpips({.net = "alex"});
  const torch::NoGradGuard no_grad;
  for (Tensor& parameter : lpips->parameters()) parameter.zero_();
  const at::AutoGradMode with_grad(true);
  const Tensor x = drawn_images(make_generator(1), {1, 3, 64, 64});
  const Tensor y = drawn_images(make_generator(2), {1, 3, 64, 64}).requires_grad_(true);
  lpips(x, y).sum().backward();
  expect_equal(y.grad(), torch::zeros_like(y));
}

TEST(LPIPS, EnlargesSmallImages) {
  const LPIPS lpips({.net = "alex"});
  const Tensor x = drawn_images(make_generator(1), {1, 3, 32, 48});
  const Tensor large = at::upsample_bilinear2d(x, {64, 96}, false);
  expect_equal(lpips->features(x).front(), lpips->features(large).front());
  EXPECT_EQ(lpips->features(x).front().size(2), 15);
  const LPIPS as_it_is({.net = "alex", .min_image_size = 0});
  EXPECT_EQ(as_it_is->features(x).front().size(2), 7);
}

/// Two layers of features, the second of half the size.
struct TwoLayers : LPIPSFeatures {
  TwoLayers() : LPIPSFeatures("two-layers") {
    first = register_module("first", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 3, 3).padding(1)));
    second =
        register_module("second", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 3).stride(2).padding(1)));
  }
  std::vector<Tensor> features(const Tensor& images) override {
    const Tensor hidden = torch::relu(first(images));
    return {hidden, second(hidden)};
  }
  torch::nn::Conv2d first{nullptr}, second{nullptr};
};

TEST(LPIPS, ComparesTheFeaturesOfANetworkOfOnesOwn) {
  manual_seed(5);
  const auto network = std::make_shared<TwoLayers>();
  LPIPS lpips(network);
  lpips->to(torch::kDouble);
  for (const Tensor& parameter : network->parameters()) EXPECT_FALSE(parameter.requires_grad());
  EXPECT_FALSE(network->is_training());
  EXPECT_EQ(state_dict(lpips).keys().front(), "net.first.weight");

  const Tensor x = drawn_images(make_generator(1), {2, 2, 8, 6}).to(torch::kDouble).requires_grad_(true);
  const Tensor y = drawn_images(make_generator(2), {2, 2, 8, 6}).to(torch::kDouble).requires_grad_(true);
  const Tensor weights = torch::tensor({1.0, 2.0}, torch::kDouble);
  const Tensor value = lpips(x, y);
  (value.flatten() * weights).sum().backward();
  const Tensor grad_x = x.grad().clone(), grad_y = y.grad().clone();
  x.mutable_grad().zero_();
  y.mutable_grad().zero_();

  // sum_i mean_{h,w} sum_c (u_i(x) - u_i(y))^2 with u_i = f_i / (|f_i| + 1e-10)
  const auto unit = [](const Tensor& features) {
    return features / ((features * features).sum(1, true) + 1e-40).sqrt().add(1e-10);
  };
  Tensor expected = torch::zeros({2}, torch::kDouble);
  const std::vector<Tensor> of_x = network->features(x), of_y = network->features(y);
  for (std::size_t i = 0; i < 2; ++i)
    expected = expected + (unit(of_x[i]) - unit(of_y[i])).pow(2).sum(1).mean({1, 2});
  EXPECT_EQ(value.sizes(), at::IntArrayRef({2, 1, 1, 1}));
  expect_close(value.flatten(), expected, 1e-12, 1e-12);
  (expected * weights).sum().backward();
  expect_close(grad_x, x.grad(), 1e-9, 1e-12);
  expect_close(grad_y, y.grad(), 1e-9, 1e-12);
  expect_equal(lpips(x, x), torch::zeros({2, 1, 1, 1}, torch::kDouble));

  LPIPS enlarging(network, /*min_image_size=*/12);
  EXPECT_EQ(enlarging->features(x).front().sizes(), at::IntArrayRef({2, 3, 16, 12}));
}

TEST(LPIPS, ANetworkOfOnesOwnIsChecked) {
  struct Fixed : LPIPSFeatures {
    explicit Fixed(std::vector<Tensor> made) : LPIPSFeatures("fixed"), made(std::move(made)) {}
    std::vector<Tensor> features(const Tensor&) override { return made; }
    std::vector<Tensor> made;
  };
  const Tensor x = torch::zeros({2, 1, 4, 4});
  const auto refuse = [&](const std::vector<Tensor>& made, std::string_view part) {
    const LPIPS lpips(std::make_shared<Fixed>(made));
    expect_throws_with<TensorError>([&] { lpips(x, x); }, part);
  };
  refuse({}, "the network \"fixed\" gives no features");
  refuse({torch::zeros({2, 3})}, "gives features float32 [2, 3] on cpu, expected [2, C, H, W]");
  refuse({torch::zeros({1, 3, 4, 4})}, "expected [2, C, H, W]");
  refuse({Tensor()}, "expected [2, C, H, W]");
  const LPIPS lpips(std::make_shared<TwoLayers>());
  expect_throws_with<TensorError>([&] { lpips(x, torch::zeros({4, 4})); }, "y is");
  expect_throws_with<TensorError>([&] { lpips(x.to(torch::kDouble), x.to(torch::kDouble)); }, "x");
  expect_throws_with<ConfigError>([] { LPIPS(std::shared_ptr<LPIPSFeatures>()); }, "the network is null");
  expect_throws_with<ConfigError>([] { LPIPS(std::make_shared<TwoLayers>(), -1); }, "min_image_size is -1");
}

TEST(LPIPS, LoadsTheTensorsOfThePackage) {
  const TemporaryFolder folder;
  for (const char* net : {"alex", "vgg"}) {
    const LPIPS made = golden_lpips(net, at::kFloat);
    // As `lpips.LPIPS(net=...).state_dict()` names them: the heads twice.
    TensorMap tensors = state_dict(made);
    const Tensor head = tensors.at("lin2.model.1.weight");
    tensors.erase("lin2.model.1.weight");
    tensors.insert("lins.2.model.1.weight", head);
    tensors.insert("lins.3.model.1.weight", tensors.at("lin3.model.1.weight"));
    tensors.erase("scaling_layer.shift");
    save_safetensors(tensors, folder / "lpips.safetensors");
    const LogCapture log;
    const LPIPS loaded = LPIPS::from_pretrained(folder / "lpips.safetensors");
    EXPECT_EQ(loaded->config().net, net);
    const TensorMap expected = state_dict(made);
    const TensorMap actual = state_dict(loaded);
    ASSERT_EQ(actual.keys(), expected.keys());
    for (const auto& [name, tensor] : expected) expect_equal(actual.at(name), tensor, name);
    EXPECT_FALSE(has_message(log, "has no tensor"));
    for (const Tensor& parameter : loaded->parameters()) EXPECT_FALSE(parameter.requires_grad());
  }
  const LPIPS wide =
      LPIPS::from_pretrained(folder / "lpips.safetensors", {.dtype = torch::kFloat64, .min_image_size = 0});
  EXPECT_EQ(wide->parameters().front().scalar_type(), torch::kFloat64);
  EXPECT_EQ(wide->config().min_image_size, 0);
}

TEST(LPIPS, WrongFilesAreRefused) {
  const TemporaryFolder folder;
  const std::string file = folder / "lpips.safetensors";
  const auto refuse = [&](const TensorMap& tensors, std::string_view part) {
    save_safetensors(tensors, file);
    expect_throws_with<FileError>([&] { LPIPS::from_pretrained(file); }, part);
  };
  const TensorMap whole = state_dict(LPIPS({.net = "alex"}));
  refuse({{"lin0.model.1.weight", torch::zeros({1, 64, 1, 1})}},
         "there is no tensor \"net.slice1.0.weight\"");
  refuse({{"net.slice1.0.weight", torch::zeros({64, 3, 7, 7})}}, "expected [64, 3, 3, 3] of VGG16");
  TensorMap part = whole;
  part.erase("lin4.model.1.weight");
  part.erase("net.slice5.10.bias");
  refuse(part, "needs the tensors net.slice5.10.bias, lin4.model.1.weight");
  part = whole;
  part.insert("net.slice2.3.bias", torch::zeros({191}));
  refuse(part, "\"net.slice2.3.bias\" is");
  part = whole;
  part.insert("net.slice2.3.bias", torch::zeros({192}, torch::kLong));
  refuse(part, "\"net.slice2.3.bias\" is");
  expect_throws_with<FileError>([&] { LPIPS::from_pretrained(folder / "none.safetensors"); },
                                "none.safetensors");

  part = whole;
  part.insert("net.slice6.12.weight", torch::zeros({1}));
  save_safetensors(part, file);
  const LogCapture log;
  LPIPS::from_pretrained(file);
  EXPECT_TRUE(has_message(log, "LPIPS has no tensor \"net.slice6.12.weight\""));
  expect_throws_with<ConfigError>([&] { LPIPS::from_pretrained(file, {.dtype = torch::kLong}); },
                                  "expected a floating dtype");
}

TEST(LPIPS, WrongImagesAreRefused) {
  expect_throws_with<ConfigError>([] { LPIPS({.min_image_size = -1}); }, "min_image_size is -1");
  expect_throws_with<ConfigError>([] { LPIPS({.net = "squeeze"}); }, "squeeze");
  const LPIPS lpips({.net = "alex"});
  const Tensor x = torch::zeros({1, 3, 64, 64});
  expect_throws_with<TensorError>([&] { lpips(x, torch::zeros({1, 3, 64, 65})); }, "expected one shape");
  expect_throws_with<TensorError>([&] { lpips(torch::zeros({1, 2, 64, 64}), x); }, "x is");
  expect_throws_with<TensorError>([&] { lpips(x, torch::zeros({3, 64, 64})); }, "y is");
  expect_throws_with<TensorError>([&] { lpips(x, x.to(torch::kDouble)); }, "y");
}

}  // namespace
}  // namespace diffusers::test
