#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/unet/unet_2d_golden.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

std::vector<std::string> parameter_names(const UNet2DModel& model) {
  std::vector<std::string> names;
  for (const auto& item : model->named_parameters()) names.push_back(item.key());
  return names;
}

void expect_same_weights(const UNet2DModel& a, const UNet2DModel& b) {
  const auto other = b->named_parameters();
  for (const auto& item : a->named_parameters()) expect_equal(item.value(), other[item.key()], item.key());
}

void expect_python_output(const std::string& folder, const ModelLoadOptions& options, double tolerance) {
  const auto& golden = unet_2d_golden();
  const auto model = UNet2DModel::from_pretrained(golden_path(folder), options);
  EXPECT_FALSE(model->is_training());
  EXPECT_EQ(parameter_names(model),
            unet_2d_cases()["folders"][folder]["keys"].get<std::vector<std::string>>());
  UNet2DModelForwardOptions inputs;
  if (model->config().num_class_embeds) inputs.class_labels = torch::tensor({0, 3});
  const torch::NoGradGuard no_grad;
  const auto output = model->forward(golden[folder + "/sample"], torch::tensor({5, 10}), inputs).sample;
  expect_close(output, golden[folder + "/output"], tolerance, tolerance, folder);
}

TEST(Model, LoadsAFolderWrittenByDiffusers) { expect_python_output("unet_2d_plain", {}, 1e-4); }

TEST(Model, LoadsShardsOfAVariantAsFloat32) {
  expect_python_output("unet_2d_sharded_fp16", {.variant = "fp16"}, 1e-4);
  const auto model = UNet2DModel::from_pretrained(golden_path("unet_2d_sharded_fp16"), {.variant = "fp16"});
  for (const auto& parameter : model->parameters()) EXPECT_EQ(parameter.scalar_type(), at::kFloat);
  EXPECT_EQ(model->load_report().num_converted, model->load_report().num_loaded);
}

TEST(Model, LoadsTheAttentionNamesOfOldFiles) {
  expect_python_output("unet_2d_legacy", {}, 1e-4);
  const auto model = UNet2DModel::from_pretrained(golden_path("unet_2d_legacy"));
  const auto& report = model->load_report();
  EXPECT_EQ(report.renamed_keys.size(), 8 * 4U) << report.to_string();
  EXPECT_TRUE(report.unexpected_keys.empty());
  EXPECT_EQ(report.unknown_config_keys, (std::vector<std::string>{"decay", "optimization_step"}));
  EXPECT_EQ(model->config().attention_head_dim, std::nullopt);
  EXPECT_NE(
      report.to_string().find("mid_block.attentions.0.query.weight -> mid_block.attentions.0.to_q.weight"),
      std::string::npos);
}

TEST(Model, SavesWhatDiffusersSaves) {
  const TemporaryFolder folder;
  for (const std::string name : {"unet_2d_plain", "unet_2d_sharded_fp16"}) {
    const bool half = name == "unet_2d_sharded_fp16";
    const auto model = UNet2DModel::from_pretrained(
        golden_path(name),
        {.variant = half ? "fp16" : "", .dtype = half ? torch::kFloat16 : torch::kFloat32});
    const auto saved = folder / name;
    model->save_pretrained(saved,
                           {.variant = half ? "fp16" : "", .max_shard_size = half ? 16000 : 10'000'000'000});
    EXPECT_EQ(list_folder(saved), list_folder(golden_path(name)));
    for (const auto& file : list_folder(saved))
      EXPECT_TRUE(read_text_file(join_path(saved, file)) ==
                  read_text_file(join_path(golden_path(name), file)))
          << file << " differs from Python's";
  }
}

TEST(Model, SurvivesSavingAndLoading) {
  const TemporaryFolder folder;
  const auto model = make_case("skip");
  model->save_pretrained(folder / "nested/unet");
  const auto again = UNet2DModel::from_pretrained(folder.path(), {.subfolder = "nested/unet"});
  expect_same_weights(model, again);
  EXPECT_EQ(again->config_json(), model->config_json());
  EXPECT_EQ(again->load_report().num_loaded, model->named_parameters().size());
  for (const auto& item : again->named_parameters())
    EXPECT_EQ(item.value().requires_grad(), item.key() != "time_proj.weight") << item.key();
}

TEST(Model, UnknownConfigKeysAreSavedAgain) {
  const TemporaryFolder folder;
  UNet2DModel::from_pretrained(golden_path("unet_2d_legacy"))->save_pretrained(folder.path());
  EXPECT_EQ(read_text_file(folder / "config.json"),
            read_text_file(golden_path("unet_2d_legacy/config.json")));
  EXPECT_TRUE(UNet2DModel::from_pretrained(folder.path())->load_report().renamed_keys.empty());
}

TEST(Model, MissingAndMisshapenTensorsAreRefusedByName) {
  const TemporaryFolder folder;
  const auto save = [&](const TensorMap& tensors) {
    save_safetensors(tensors, folder / "diffusion_pytorch_model.safetensors", {{"format", "pt"}});
  };
  write_file(read_text_file(golden_path("unet_2d_plain/config.json")), folder / "config.json");
  const auto load = [&] { return UNet2DModel::from_pretrained(folder.path()); };
  expect_throws_with<FileError>(load, folder.path());

  const auto good = load_safetensors(golden_path("unet_2d_plain/diffusion_pytorch_model.safetensors"));
  auto tensors = good;
  tensors.erase("conv_in.weight");
  tensors.erase("mid_block.attentions.0.to_q.bias");
  save(tensors);
  expect_throws_with<FileError>(load, "conv_in.weight");
  expect_throws_with<FileError>(load, "mid_block.attentions.0.to_q.bias");
  expect_throws_with<FileError>(load, "2 of the model's");

  tensors = good;
  tensors["conv_in.weight"] = torch::zeros({4, 1, 3, 3});
  save(tensors);
  expect_throws_with<FileError>(load,
                                "conv_in.weight is [4, 1, 3, 3] in the file and [4, 3, 3, 3] in the model");

  tensors = good;
  tensors["extra.weight"] = torch::zeros({2});
  save(tensors);
  std::string warning;
  const auto previous = set_log_sink([&](LogLevel, std::string_view text) { warning += text; });
  const auto model = load();
  set_log_sink(previous);
  EXPECT_EQ(model->load_report().unexpected_keys, std::vector<std::string>{"extra.weight"});
  EXPECT_NE(warning.find("extra.weight"), std::string::npos);
}

TEST(Model, MissingFoldersAndVariantsAreRefused) {
  expect_throws_with<FileError>([] { UNet2DModel::from_pretrained(golden_path("nowhere")); }, "nowhere");
  expect_throws_with<FileError>([] { UNet2DModel::from_pretrained(golden_path(""), {.subfolder = "unet"}); },
                                "unet");
  expect_throws_with<FileError>(
      [] { UNet2DModel::from_pretrained(golden_path("unet_2d_plain"), {.variant = "fp16"}); }, "fp16");
  expect_throws_with<ConfigError>(
      [] { UNet2DModel::from_pretrained(golden_path("unet_2d_plain"), {.dtype = torch::kInt64}); }, "int64");
}

TEST(Model, LoadingAndCloningDrawNoRandomNumbers) {
  torch::manual_seed(3);
  const auto expected = torch::rand({4});
  torch::manual_seed(3);
  const auto model = UNet2DModel::from_pretrained(golden_path("unet_2d_plain"));
  const auto copy = model->clone();
  expect_equal(torch::rand({4}), expected);
}

TEST(Model, LoadsInTheDtypeAskedFor) {
  const auto model = UNet2DModel::from_pretrained(golden_path("unet_2d_plain"), {.dtype = torch::kFloat64});
  for (const auto& item : model->named_parameters())
    EXPECT_EQ(item.value().scalar_type(), at::kDouble) << item.key();
}

TEST(Model, AClonedModelIsEqualAndItsOwn) {
  auto model = make_case("plain");
  model->eval();
  model->enable_gradient_checkpointing();
  model->named_parameters()["conv_in.weight"].requires_grad_(false);
  const UNet2DModel copy(std::dynamic_pointer_cast<UNet2DModelImpl>(model->clone()));
  expect_same_weights(model, copy);
  EXPECT_EQ(copy->config_json(), model->config_json());
  EXPECT_FALSE(copy->is_training());
  EXPECT_TRUE(copy->is_gradient_checkpointing());
  EXPECT_FALSE(copy->named_parameters()["conv_in.weight"].requires_grad());
  EXPECT_TRUE(copy->named_parameters()["conv_in.bias"].requires_grad());
  const auto sample = torch::randn({1, 1, 8, 8});
  const torch::NoGradGuard no_grad;
  const auto before = copy->forward(sample, 3).sample;
  for (auto& parameter : model->parameters()) parameter.zero_();
  expect_equal(copy->forward(sample, 3).sample, before);
}

TEST(Model, ACallIsForward) {
  const auto model = make_case("plain");
  const torch::NoGradGuard no_grad;
  const auto sample = torch::randn({2, 1, 8, 8});
  const auto timesteps = torch::tensor({3, 3});
  const auto expected = model->forward(sample, timesteps).sample;
  expect_equal(model(sample, timesteps).sample, expected);
  expect_equal(model(sample, 3).sample, expected);
  expect_equal(model(sample, timesteps, {}).sample, expected);
  const UNet2DModelForwardOptions options;
  expect_equal(model(sample, timesteps, options).sample, expected);
}

TEST(Model, ACallTakesOptionsInBraces) {
  const torch::NoGradGuard no_grad;
  UNet2DModel classes({.in_channels = 1,
                       .out_channels = 1,
                       .down_block_types = {"DownBlock2D"},
                       .up_block_types = {"UpBlock2D"},
                       .block_out_channels = {4},
                       .layers_per_block = 1,
                       .attention_head_dim = 2,
                       .norm_num_groups = 2,
                       .num_class_embeds = 3});
  const auto sample = torch::randn({2, 1, 8, 8});
  const auto labels = torch::tensor({0, 2});
  expect_equal(classes(sample, 5, {.class_labels = labels}).sample,
               classes->forward(sample, 5, {.class_labels = labels}).sample);

  const UNet2DConditionModel unet({.down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                                   .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                                   .block_out_channels = {4, 8},
                                   .norm_num_groups = 2,
                                   .cross_attention_dim = 6,
                                   .attention_head_dim = 2});
  const auto latents = torch::randn({2, 4, 8, 8});
  const auto states = torch::randn({2, 5, 6});
  const auto mask = torch::tensor({{1, 1, 0, 0, 0}, {1, 1, 1, 1, 1}});
  expect_equal(unet(latents, 7, states).sample, unet->forward(latents, 7, states).sample);
  expect_equal(unet(latents, 7, states, {.encoder_attention_mask = mask}).sample,
               unet->forward(latents, 7, states, {.encoder_attention_mask = mask}).sample);

  const auto controlnet = ControlNetModel::from_unet(unet);
  const auto image = torch::randn({2, 3, 64, 64});
  expect_equal(
      controlnet(latents, 7, states, image, {.conditioning_scale = 0.5}).mid_block_res_sample,
      controlnet->forward(latents, 7, states, image, {.conditioning_scale = 0.5}).mid_block_res_sample);

  const AutoencoderKL vae({.block_out_channels = {4}, .norm_num_groups = 2});
  const auto images = torch::randn({1, 3, 8, 8});
  expect_equal(vae(images).sample, vae->forward(images).sample);
  expect_equal(vae(images, {.sample_posterior = true, .generator = make_generator(1)}).sample,
               vae->forward(images, {.sample_posterior = true, .generator = make_generator(1)}).sample);
}

TEST(Model, ACallOfAnEmptyHolderThrows) {
  const UNet2DModel empty(nullptr);
  EXPECT_THROW(empty(torch::zeros({1, 1, 8, 8}), 3), c10::Error);
}

}  // namespace
}  // namespace diffusers::test
