#include <functional>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_kl.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/vae/autoencoder_golden.h"

namespace diffusers::test {
namespace {

class AutoencoderKLGolden : public testing::TestWithParam<std::string> {};
class AutoencoderKLFloat64 : public testing::TestWithParam<std::string> {};
class AutoencoderKLTiles : public testing::TestWithParam<std::string> {};

void compare_autoencoder_with_python(const std::string& name, at::ScalarType dtype) {
  const auto& golden = autoencoder_golden();
  const auto& run = autoencoder_case(name)["run"];
  const bool wide = dtype == at::kDouble;
  const std::string key = (wide ? name + ".float64" : name) + "/";
  const double tolerance = wide ? kFloat64Tolerance : kFloat32Tolerance;

  auto model = make_autoencoder<AutoencoderKL>(name);
  perturb(model);
  model->to(dtype);
  if (run.value("slicing", false)) model->enable_slicing();
  auto sample = golden[key + "sample"].clone().requires_grad_(true);
  const auto posterior = model->encode(sample).latent_dist;
  expect_close_to_scale(posterior.mean, golden[key + "mean"], tolerance, key + "mean");
  expect_close_to_scale(posterior.logvar, golden[key + "logvar"], tolerance, key + "logvar");
  expect_close_to_scale(posterior.kl(), golden[key + "kl"], tolerance, key + "kl");

  Tensor output;
  if (run.value("sample_posterior", false)) {
    output = model->forward(sample, {.sample_posterior = true, .generator = make_generator(23)}).sample;
    (1e-2 * posterior.kl().sum()).backward({}, /*retain_graph=*/true);
  } else {
    output = model->forward(sample).sample;
  }
  output.backward(pattern(output.sizes(), dtype));
  expect_close_to_scale(output, golden[key + "output"], tolerance, key + "output");
  expect_close_to_scale(sample.grad(), golden[key + "grad_sample"], tolerance, key + "grad_sample");
  expect_gradients(*model, golden, key, tolerance);
}

TEST_P(AutoencoderKLGolden, ForwardAndBackwardMatchDiffusers) {
  compare_autoencoder_with_python(GetParam(), at::kFloat);
}

TEST_P(AutoencoderKLFloat64, ForwardAndBackwardMatchDiffusers) {
  compare_autoencoder_with_python(GetParam(), at::kDouble);
}

TEST_P(AutoencoderKLGolden, SameSeedGivesTheWeightsOfDiffusers) {
  expect_initial_weights(make_autoencoder<AutoencoderKL>(GetParam()), autoencoder_case(GetParam()));
}

TEST_P(AutoencoderKLGolden, ConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(make_autoencoder<AutoencoderKL>(GetParam())->config_json(),
            autoencoder_case(GetParam())["config_text"].get<std::string>());
}

TEST_P(AutoencoderKLTiles, MatchDiffusers) {
  const auto& golden = autoencoder_golden();
  auto model = make_autoencoder<AutoencoderKL>(GetParam());
  perturb(model);
  model->enable_tiling();
  for (const std::string tiles : {"default", "uneven"}) {
    const auto key = GetParam() + "/" + tiles + "_tiles/";
    if (tiles == "uneven") {
      const int64_t scale = int64_t{1} << (model->config().block_out_channels.size() - 1);
      model->tile_sample_min_size = 3 * scale;
      model->tile_latent_min_size = 3;
      model->tile_overlap_factor = 0.34;
    }
    auto image = golden[key + "image"].clone().requires_grad_(true);
    const auto moments = model->encode(image).latent_dist.parameters;
    moments.backward(pattern(moments.sizes()));
    expect_close_to_scale(moments, golden[key + "moments"], kFloat32Tolerance, key + "moments");
    expect_close_to_scale(image.grad(), golden[key + "grad_image"], kFloat32Tolerance, key + "grad_image");
    const torch::NoGradGuard no_grad;
    const auto posterior = model->encode(image).latent_dist;
    expect_close_to_scale(model->decode(posterior.mean).sample, golden[key + "decoded"], kFloat32Tolerance,
                          key + "decoded");
    expect_equal(model->tiled_encode(image).latent_dist.mean, posterior.mean, key + "tiled_encode");
    expect_equal(model->tiled_decode(posterior.mean).sample, model->decode(posterior.mean).sample,
                 key + "tiled_decode");
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, AutoencoderKLGolden,
                         testing::ValuesIn(autoencoder_case_names("AutoencoderKL")),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, AutoencoderKLFloat64,
                         testing::ValuesIn(autoencoder_case_names("AutoencoderKL", "float64")),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, AutoencoderKLTiles,
                         testing::ValuesIn(autoencoder_case_names("AutoencoderKL", "tiles")),
                         [](const auto& info) { return info.param; });

AutoencoderKLConfig small_autoencoder_config() {
  return {.down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D"},
          .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D"},
          .block_out_channels = {8, 16},
          .norm_num_groups = 4,
          .sample_size = 16};
}

TEST(AutoencoderKL, TheDefaultConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(AutoencoderKL()->config_json(),
            autoencoder_cases()["defaults"]["AutoencoderKL"].get<std::string>());
}

TEST(AutoencoderKL, LoadsAndSavesFoldersOfDiffusers) {
  const auto& golden = autoencoder_golden();
  for (const std::string name : {"autoencoder_kl_plain", "autoencoder_kl_legacy"}) {
    const auto model = AutoencoderKL::from_pretrained(golden_path(name));
    EXPECT_FALSE(model->is_training());
    std::vector<std::string> keys;
    for (const auto& item : model->named_parameters()) keys.push_back(item.key());
    EXPECT_EQ(keys, autoencoder_cases()["folders"][name]["keys"].get<std::vector<std::string>>());
    const torch::NoGradGuard no_grad;
    expect_close_to_scale(model->forward(golden[name + "/sample"]).sample, golden[name + "/output"],
                          kFloat32Tolerance, name);
    if (name == "autoencoder_kl_plain") {
      const TemporaryFolder folder;
      model->save_pretrained(folder / name);
      for (const auto& file : list_folder(golden_path(name)))
        EXPECT_TRUE(read_text_file(join_path(folder / name, file)) ==
                    read_text_file(join_path(golden_path(name), file)))
            << file << " differs from Python's";
      continue;
    }
    // Two mid blocks and two layers of the decoder's first block have four projections with two tensors each.
    EXPECT_EQ(model->load_report().renamed_keys.size(), 4 * 8U) << model->load_report().to_string();
    EXPECT_EQ(model->load_report().unknown_config_keys, std::vector<std::string>{"decay"});
    EXPECT_EQ(model->config().scaling_factor, 0.18215);
    EXPECT_TRUE(model->config().force_upcast);
  }
}

TEST(AutoencoderKL, ForwardDrawsFromTheGlobalGeneratorWithoutOne) {
  const AutoencoderKL model(small_autoencoder_config());
  const torch::NoGradGuard no_grad;
  const auto image = torch::randn({1, 3, 8, 8});
  torch::manual_seed(3);
  const auto drawn = model->forward(image, {.sample_posterior = true}).sample;
  expect_equal(drawn,
               model->forward(image, {.sample_posterior = true, .generator = make_generator(3)}).sample);
  EXPECT_FALSE(torch::equal(drawn, model->forward(image).sample));
}

TEST(AutoencoderKL, GradientCheckpointingGivesTheSameGradients) {
  for (const std::string name : {"kl_plain", "kl_attention_blocks"}) {
    auto model = make_autoencoder<AutoencoderKL>(name);
    perturb(model);
    std::vector<std::vector<Tensor>> gradients;
    for (const bool checkpointing : {false, true}) {
      checkpointing ? model->enable_gradient_checkpointing() : model->disable_gradient_checkpointing();
      EXPECT_EQ(model->is_gradient_checkpointing(), checkpointing);
      model->zero_grad();
      auto image = autoencoder_golden()[name + "/sample"].clone().requires_grad_(true);
      const auto posterior = model->encode(image).latent_dist;
      const auto decoded = model->decode(posterior.sample(make_generator(1))).sample;
      (torch::mse_loss(decoded, image.detach()) + 1e-6 * posterior.kl().mean()).backward();
      gradients.push_back({decoded.detach(), image.grad()});
      for (const auto& parameter : model->parameters()) gradients.back().push_back(parameter.grad().clone());
    }
    expect_equal(gradients[1][0], gradients[0][0], name + " output");
    expect_close_to_scale(gradients[1][1], gradients[0][1], 1e-5, name + " gradient of the image");
    const auto parameters = model->named_parameters();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto& label = parameters[i].key();
      const Tensor noise_scale =
          is_key_bias(label, parameters) ? weight_of_key_bias(label, parameters).grad() : gradients[0][i + 2];
      expect_close(gradients[1][i + 2], gradients[0][i + 2], 1e-5,
                   1e-5 * noise_scale.abs().max().item<double>(), label);
    }
  }
}

TEST(AutoencoderKL, SlicingAndClonesGiveTheSame) {
  AutoencoderKL model(small_autoencoder_config());
  const torch::NoGradGuard no_grad;
  const auto images = torch::randn({3, 3, 8, 8});
  const auto expected = model->forward(images).sample;
  model->enable_slicing();
  model->enable_tiling();
  model->tile_overlap_factor = 0.5;
  expect_close_to_scale(model->forward(images).sample, expected, 1e-5, "slices");
  const AutoencoderKL copy(std::dynamic_pointer_cast<AutoencoderKLImpl>(model->clone()));
  EXPECT_TRUE(copy->use_slicing);
  EXPECT_TRUE(copy->use_tiling);
  EXPECT_EQ(copy->tile_overlap_factor, 0.5);
  expect_equal(copy->forward(images).sample, model->forward(images).sample, "clone");
  model->disable_slicing();
  model->disable_tiling();
  expect_equal(model->forward(images).sample, expected, "switched off");
}

TEST(AutoencoderKL, TilesWithoutSizeAreRefused) {
  AutoencoderKL model(small_autoencoder_config());
  const torch::NoGradGuard no_grad;
  const auto image = torch::randn({1, 3, 32, 32});
  model->enable_tiling();
  model->tile_overlap_factor = 1;
  expect_throws_with<ConfigError>([&] { model->encode(image); }, "tile_overlap_factor is 1");
  model->tile_overlap_factor = 0.9;
  model->tile_latent_min_size = 1;
  expect_throws_with<ConfigError>(
      [&] {
        model->decode(torch::randn({1, 4, 4, 4}));
      },
      "no step between tiles");
  model->tile_sample_min_size = 0;
  expect_throws_with<ConfigError>([&] { model->encode(image); }, "must be positive");
  model->tile_sample_min_size = 31;
  model->tile_latent_min_size = 16;
  model->tile_overlap_factor = 0;
  expect_throws_with<TensorError>([&] { model->encode(image); }, "too small for the encoder");
}

struct BadAutoencoder {
  std::function<void(AutoencoderKLConfig&)> change;
  std::vector<std::string> expected;  ///< expected parts of the message
};

TEST(AutoencoderKL, ImpossibleConfigsAreRefusedByKeyAndValue) {
  using C = AutoencoderKLConfig;
  const std::vector<BadAutoencoder> cases{
      {[](C& c) {
         c.block_out_channels = {8, 16, 16};
       },
       {"down_block_types has 2", "block_out_channels 3"}},
      {[](C& c) { c.up_block_types = {"UpDecoderBlock2D"}; },
       {"up_block_types has 1", "block_out_channels 2"}},
      {[](C& c) {
         c.block_out_channels = {};
         c.down_block_types = {};
         c.up_block_types = {};
       },
       {"block_out_channels is empty"}},
      {[](C& c) { c.down_block_types[1] = "DownBlock2D"; },
       {"down_block_types[1]", "\"DownBlock2D\"", "AttnDownEncoderBlock2D"}},
      {[](C& c) { c.up_block_types[0] = "UpBlock2D"; },
       {"up_block_types[0]", "\"UpBlock2D\"", "AttnUpDecoderBlock2D"}},
      {[](C& c) { c.norm_num_groups = 5; }, {"8 channels", "5 groups", "norm_num_groups 5"}},
      {[](C& c) { c.norm_num_groups = 0; }, {"norm_num_groups is 0"}},
      {[](C& c) { c.in_channels = 0; }, {"in_channels is 0"}},
      {[](C& c) { c.out_channels = -1; }, {"out_channels is -1"}},
      {[](C& c) { c.latent_channels = 0; }, {"latent_channels is 0"}},
      {[](C& c) { c.layers_per_block = 0; }, {"layers_per_block is 0"}},
      {[](C& c) { c.block_out_channels[0] = 0; }, {"block_out_channels is 0"}},
      {[](C& c) { c.sample_size = 0; }, {"sample_size is 0"}},
      {[](C& c) { c.sample_size = {}; }, {"sample_size is []"}},
      {[](C& c) { c.act_fn = "tanh"; }, {"act_fn is \"tanh\"", "mish"}},
      {[](C& c) { c.scaling_factor = 0; }, {"scaling_factor is 0"}},
      {[](C& c) { c.latents_mean = {0.5}; }, {"latents_mean has 1", "latent_channels = 4"}},
  };
  for (const auto& bad : cases) {
    auto config = small_autoencoder_config();
    bad.change(config);
    for (const auto& part : bad.expected)
      expect_throws_with<ConfigError>([&] { AutoencoderKL model(config); }, part);
  }
  expect_throws_with<ConfigError>([] { AutoencoderKL::from_config(R"({"latent_channels": null})"); },
                                  "latent_channels is null");
}

TEST(AutoencoderKL, WrongInputsAreRefusedWithBothSides) {
  const AutoencoderKL model(small_autoencoder_config());
  const auto refuse = [](const std::function<void()>& call, const std::string& part) {
    expect_throws_with<TensorError>(call, part);
  };
  refuse([&] { model->encode({}); }, "expected [B, 3, H, W], got an undefined tensor");
  refuse(
      [&] {
        model->encode(torch::randn({2, 4, 8, 8}));
      },
      "expected [B, 3, H, W], got float32 [2, 4, 8, 8]");
  refuse([&] { model->encode(torch::randn({3, 8, 8})); }, "got float32 [3, 8, 8]");
  refuse([&] { model->encode(torch::randn({2, 3, 0, 8})); }, "must be positive");
  refuse([&] { model->encode(torch::randn({2, 3, 8, 1})); }, "too small for the encoder");
  refuse(
      [&] {
        model->encode(torch::randn({2, 3, 8, 8}, torch::kDouble));
      },
      "x is float64, the model float32");
  refuse([&] { model->decode(torch::randn({2, 3, 8, 8})); }, "z: expected [B, 4, H, W]");
  refuse(
      [&] {
        model->decode(torch::randn({2, 4, 8, 8}).to(torch::kMeta));
      },
      "z is on meta, the model on cpu");
  refuse([&] { model->forward(torch::zeros({1, 3, 8, 8}, torch::kUInt8)); }, "x is uint8");
}

}  // namespace
}  // namespace diffusers::test
