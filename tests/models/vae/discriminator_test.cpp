#include <string>
#include <vector>

#include <diffusers/models/discriminator.h>
#include <diffusers/models/state_dict.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/joined_threads.h"
#include "models/vae/training_golden.h"
#include "support/golden.h"
#include "support/gradients.h"

namespace diffusers::test {
namespace {

NLayerDiscriminatorConfig discriminator_config(const Json& json) {
  return {.input_nc = json.at("input_nc").get<int64_t>(),
          .ndf = json.at("ndf").get<int64_t>(),
          .n_layers = json.at("n_layers").get<int64_t>(),
          .use_actnorm = json.value("use_actnorm", false)};
}

TEST(NLayerDiscriminator, SameSeedGivesTheWeightsOfPython) {
  for (const Json& one : training_cases("discriminator")) {
    const auto name = one.at("name").get<std::string>();
    const auto disc = golden_discriminator(discriminator_config(one.at("config")), at::kFloat);
    const TensorMap state = state_dict(disc);
    EXPECT_EQ(state.keys(), one.at("keys").get<std::vector<std::string>>()) << name;
    for (const auto& [key, tensor] : state)
      expect_equal(tensor, training_golden()[name + ".initial." + key], key);
  }
}

TEST(NLayerDiscriminator, ForwardAndBackwardMatchPython) {
  const auto& golden = training_golden();
  const Json cases = training_cases("discriminator");
  ASSERT_EQ(cases.size(), 4U);
  for (const Json& one : cases) {
    const auto name = one.at("name").get<std::string>();
    const NLayerDiscriminatorConfig config = discriminator_config(one.at("config"));
    const auto disc = golden_discriminator(config);
    const Generator generator = make_generator(kGoldenDataSeed);
    const Tensor first = drawn_images(generator, {3, config.input_nc, 48, 40}).to(at::kDouble);
    const Tensor second =
        drawn_images(generator, {3, config.input_nc, 48, 40}).to(at::kDouble).requires_grad_(true);
    expect_close(disc(first), golden[name + ".first"], 1e-9, 1e-10, name + ".first");
    const Tensor output = disc(second);
    expect_close(output, golden[name + ".second"], 1e-9, 1e-10, name + ".second");
    (output * torch::arange(output.numel()).view(output.sizes())).mean().backward();
    const Tensor& of_input = golden[name + ".grad_input"];
    expect_close(second.grad(), of_input, 1e-6, 1e-6 * of_input.abs().max().item<double>(), name);
    expect_gradients(*disc.ptr(), golden, name + "/", 1e-8);
    for (const auto& buffer : disc->named_buffers())
      expect_close(buffer.value(), golden[name + ".buffer." + buffer.key()], 1e-9, 1e-10, buffer.key());
    disc.ptr()->eval();
    expect_close(disc(second), golden[name + ".eval"], 1e-9, 1e-10, name + ".eval");
  }
}

TEST(NLayerDiscriminator, IsSavedAndLoadedWithItsStatistics) {
  for (const bool use_actnorm : {false, true}) {
    const TemporaryFolder folder;
    NLayerDiscriminator disc({.ndf = 4, .n_layers = 2, .use_actnorm = use_actnorm});
    const Tensor x = drawn_images(make_generator(1), {2, 3, 32, 32});
    disc(x);
    disc->save_pretrained(folder.path());
    NLayerDiscriminator loaded = NLayerDiscriminator::from_pretrained(folder.path());
    EXPECT_EQ(loaded->config().use_actnorm, use_actnorm);
    const TensorMap expected = state_dict(disc);
    const TensorMap actual = state_dict(loaded);
    ASSERT_EQ(actual.keys(), expected.keys());
    for (const auto& [name, tensor] : expected) expect_equal(actual.at(name), tensor, name);
    // In train mode as well: an ActNorm that has seen a batch keeps its statistics.
    loaded->train();
    expect_equal(loaded(-x), disc(-x));
  }
}

TEST(ActNorm, TheFirstBatchInTrainModeGivesMeanAndStandardDeviation) {
  ActNorm norm(3);
  norm->eval();
  const Tensor x = drawn_images(make_generator(3), {4, 3, 5, 5}) * 7 + 2;
  expect_equal(norm(x), x);
  norm->train();
  const Tensor y = norm(x).transpose(0, 1).flatten(1);
  expect_close(y.mean(1), torch::zeros({3}), 0, 1e-5);
  expect_close(y.std(1), torch::ones({3}), 1e-5, 0);
  EXPECT_EQ(norm->initialized.item<uint8_t>(), 1);
  const Tensor loc = norm->loc.clone();
  norm(x + 1);
  expect_equal(norm->loc, loc);
  // Loading another state is noticed.
  norm->initialized.zero_();
  norm(x + 1);
  EXPECT_GT((norm->loc - loc).abs().min().item<double>(), 0.5);
}

TEST(ActNorm, SeveralProcessesTakeTheStatisticsOfAllSamples) {
  const Tensor x = drawn_images(make_generator(3), {5, 3, 4, 4}) * 7 + 2;
  ActNorm whole(3);
  whole(x);
  std::vector<ActNorm> norms{ActNorm(3), ActNorm(3), ActNorm(3)};
  run_joined({3, 2, 0}, [&](std::size_t i) {
    norms[i](i == 0 ? x.narrow(0, 0, 3) : i == 1 ? x.narrow(0, 3, 2) : x.narrow(0, 0, 1));
  });
  for (const ActNorm& norm : norms) {
    expect_close(norm->loc, whole->loc, 1e-6, 1e-6, "loc");
    expect_close(norm->scale, whole->scale, 1e-6, 1e-6, "scale");
    expect_equal(norm->loc, norms[0]->loc);
  }
}

TEST(NLayerDiscriminator, WrongArgumentsAreRefused) {
  const auto refuse = [](const NLayerDiscriminatorConfig& config, std::string_view part) {
    expect_throws_with<ConfigError>([&] { NLayerDiscriminator disc(config); }, part);
  };
  refuse({.input_nc = 0}, "input_nc is 0");
  refuse({.ndf = -1}, "ndf is -1");
  refuse({.n_layers = 0}, "n_layers is 0");
  NLayerDiscriminator disc({.ndf = 4});
  EXPECT_EQ(disc->min_image_size(), 24);
  EXPECT_EQ(disc(torch::zeros({1, 3, 24, 25})).sizes(), at::IntArrayRef({1, 1, 1, 1}));
  expect_throws_with<TensorError>(
      [&] {
        disc(torch::zeros({1, 3, 23, 40}));
      },
      "height and width of 24 or more");
  expect_throws_with<TensorError>([&] { disc(torch::zeros({1, 1, 32, 32})); }, "input");
  expect_throws_with<TensorError>(
      [] {
        ActNorm(2)->forward(torch::zeros({1, 3, 2, 2}));
      },
      "expected [B, 2, H, W]");
}

}  // namespace
}  // namespace diffusers::test
