// The pipeline folders of latent diffusion, and the training with captions that two of them need.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/latent_diffusion_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/latent_diffusion_parts.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"

namespace diffusers {
namespace {

using test::caption_options;
using test::copies;
using test::expect_throws_with;
using test::latent_case;
using test::latent_config;
using test::latent_parts;
using test::latent_samples;
using test::LatentParts;
using test::LogCapture;
using test::TemporaryFolder;
using test::tiny_condition_unet;
using test::tiny_vae;

TEST(LatentDiffusionTask, WritesTheFolderOfAPipeline) {
  const LogCapture log;
  const auto index_of = [](const LatentParts& parts, const std::string& folder) {
    Trainer(parts.task(), latent_config(folder)).train(TensorDataset(latent_samples()));
    return parse_json(read_text_file(join_path(folder, "model_index.json")), "model_index.json");
  };
  const TemporaryFolder unconditional;
  const Json ldm = index_of(latent_parts(latent_case("kl_by_std"), at::kFloat), unconditional.path());
  EXPECT_EQ(ldm.at("_class_name"), "LDMPipeline");
  EXPECT_EQ(ldm.at("vqvae"), Json::array({"diffusers", "AutoencoderKL"}));
  EXPECT_EQ(ldm.at("unet"), Json::array({"diffusers", "UNet2DModel"}));
  EXPECT_EQ(ldm.at("scheduler"), Json::array({"diffusers", "DDPMScheduler"}));
  const auto vqvae = AutoencoderKL::from_pretrained(unconditional / "vqvae");
  EXPECT_NE(vqvae->config().scaling_factor, 0.18215);
  EXPECT_TRUE(file_exists(unconditional / "unet/diffusion_pytorch_model.safetensors"));

  const TemporaryFolder labelled;
  const Json adm = index_of(latent_parts(latent_case("adm"), at::kFloat), labelled.path());
  EXPECT_EQ(adm.at("_class_name"), "LatentDiffusionPipeline");
  EXPECT_EQ(adm.at("vae"), Json::array({"diffusers", "AutoencoderKL"}));
  EXPECT_EQ(adm.at("encodes_conditioning_images"), false);
  EXPECT_TRUE(file_exists(labelled / "vae/config.json"));

  // Python's LDMPipeline would not shift the latents back.
  const TemporaryFolder shifted;
  AutoencoderKLConfig config = test::tiny_vae_config();
  config.shift_factor = 0.5;
  LatentParts parts = latent_parts(latent_case("none"), at::kFloat);
  parts.encoder = LatentEncoder(tiny_vae(config));
  EXPECT_EQ(index_of(parts, shifted.path()).at("_class_name"), "LatentDiffusionPipeline");

  const TemporaryFolder encoded;
  const Json concat = index_of(latent_parts(latent_case("encoded"), at::kFloat), encoded.path());
  EXPECT_EQ(concat.at("encodes_conditioning_images"), true);
}

TEST(LatentDiffusionTask, EmbedsCaptionsAndWritesAStableDiffusionFolder) {
  const LogCapture log;
  Batch samples = latent_samples();
  for (int64_t i = 0; i < samples.size(); ++i)
    samples.captions.emplace_back(i % 2 == 0 ? "a red cat" : "two dogs");
  const auto train = [&](double dropout, const std::string& folder) {
    UNet2DConditionModel unet = tiny_condition_unet(2, 16);
    const auto task = std::make_shared<LatentDiffusionTask>(unet, DDPMScheduler(), LatentEncoder(tiny_vae()),
                                                            caption_options(dropout));
    EXPECT_EQ(task->frozen().size(), 2U);
    Trainer(task, latent_config(folder)).train(TensorDataset(samples));
    return copies(unet->parameters());
  };
  const TemporaryFolder folder;
  const std::vector<Tensor> plain = train(0.0, folder.path());
  const Json index = parse_json(read_text_file(folder / "model_index.json"), "model_index.json");
  EXPECT_EQ(index.at("_class_name"), "StableDiffusionPipeline");
  EXPECT_EQ(index.at("text_encoder"), Json::array({"transformers", "CLIPTextModel"}));
  EXPECT_EQ(index.at("safety_checker"), Json::array({nullptr, nullptr}));
  for (const char* part : {"vae", "text_encoder", "tokenizer", "unet", "scheduler"})
    EXPECT_TRUE(folder_exists(folder / part)) << part;
  const TemporaryFolder dropped;
  const std::vector<Tensor> other = train(0.5, dropped.path());
  bool differs = false;
  for (std::size_t i = 0; i < plain.size(); ++i) differs = differs || !at::equal(plain[i], other[i]);
  EXPECT_TRUE(differs);

  expect_throws_with<ConfigError>(
      [&] {
        LatentDiffusionTask(tiny_condition_unet(2, 6), DDPMScheduler(), LatentEncoder(tiny_vae()),
                            caption_options(0.0));
      },
      "cross_attention_dim of the model is 6, but hidden_size of the text encoder is 16");
  EXPECT_FALSE(log.contains("a caption has more than"));
  std::string long_caption = "cat";
  for (int i = 0; i < 100; ++i) long_caption += " cat";
  samples.captions[3] = long_caption;
  const TemporaryFolder cut;
  train(0.0, cut.path());
  EXPECT_TRUE(log.contains("a caption has more than"));
  const TemporaryFolder without;
  expect_throws_with<TensorError>(
      [&] {
        const auto task = std::make_shared<LatentDiffusionTask>(
            tiny_condition_unet(2, 16), DDPMScheduler(), LatentEncoder(tiny_vae()), caption_options(0.0));
        Trainer(task, latent_config(without.path())).train(TensorDataset(latent_samples()));
      },
      "the dataset gives 0 captions for 4 images");
}

}  // namespace
}  // namespace diffusers
