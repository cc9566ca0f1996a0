// Options and data that latent diffusion refuses.

#include <functional>
#include <memory>
#include <string>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/latent_diffusion_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/latent_diffusion_parts.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"

namespace diffusers {
namespace {

using test::caption_options;
using test::expect_throws_with;
using test::label_states;
using test::latent_case;
using test::latent_config;
using test::latent_parts;
using test::latent_samples;
using test::LogCapture;
using test::TemporaryFolder;
using test::tiny_condition_unet;
using test::tiny_latent_unet;
using test::tiny_vae;

TEST(LatentDiffusionTask, WarnsOfASchedulerThatClipsLatents) {
  const LogCapture log;
  const auto make = [](const Scheduler& scheduler) {
    LatentDiffusionTask(tiny_latent_unet(), scheduler, LatentEncoder(tiny_vae()));
  };
  make(DDPMScheduler({.clip_sample = false}));
  EXPECT_FALSE(log.contains("clip_sample"));
  // The only task of this class here: a warning comes once.
  make(DDIMScheduler());
  EXPECT_TRUE(log.contains("DDIMScheduler: clip_sample is true"));
}

TEST(LatentDiffusionTask, RefusesOptionsThatDoNotFit) {
  const auto refuse = [](const LatentDiffusionTaskOptions& options, const char* part,
                         const TrainableDenoiser& unet = tiny_latent_unet()) {
    expect_throws_with<ConfigError>(
        [&] { LatentDiffusionTask(unet, DDPMScheduler(), LatentEncoder(tiny_vae()), options); }, part);
  };
  const ConditioningFunction states = label_states(at::kFloat);
  refuse({.conditioning_key = "adm"}, "the model takes no class labels");
  refuse({.conditioning_key = "crossattn"}, "nothing gives the hidden states");
  refuse({.conditioning_key = "crossattn", .diffusion = {.conditioning = states}},
         "the model takes no encoder_hidden_states");
  refuse({.concat_input = "inpainting"}, "concat_input is \"inpainting\", but conditioning_key is \"none\"");
  refuse({.conditioning_dropout_prob = 0.1}, "there is nothing to drop");
  refuse({.conditioning_key = "adm", .conditioning_dropout_prob = 0.1}, "class_dropout_prob of the diffusion",
         tiny_latent_unet(2, 5));
  refuse({.conditioning_key = "concat", .conditioning_dropout_prob = 1.0}, "expected 0 to less than 1");
  refuse({.diffusion = {.conditioning = states}}, "a conditioning function is given");
  refuse({.diffusion = {.class_conditional = true}}, "leave it unset");
  refuse({.diffusion = {.class_dropout_prob = 0.1}}, "the model is given no class labels");
  refuse({.unconditional_hidden_states = at::zeros({1, 3, 6})}, "unconditional_hidden_states are given");
  refuse({.conditioning_key = "crossattn",
          .conditioning_dropout_prob = 0.1,
          .diffusion = {.conditioning = states}},
         "there are no unconditional_hidden_states", tiny_condition_unet());
  refuse({}, "expected in_channels 2", tiny_latent_unet(3));
  refuse({.conditioning_key = "concat", .concat_input = "inpainting"}, "expected in_channels 5");
  refuse({.conditioning_key = "concat", .concat_input = "encoded_images"}, "expected in_channels 4");
  refuse({.conditioning_key = "concat"}, "expected in_channels 3");
  LatentDiffusionTaskOptions half = caption_options(0.0);
  half.tokenizer.reset();
  refuse(half, "a tokenizer or a text_encoder without the other", tiny_condition_unet(2, 16));
  LatentDiffusionTaskOptions unused = caption_options(0.0);
  unused.conditioning_key = "none";
  refuse(unused, "a text_encoder is given, but conditioning_key is \"none\"");
  LatentDiffusionTaskOptions twice = caption_options(0.0);
  twice.diffusion.conditioning = states;
  refuse(twice, "a text_encoder and a conditioning function are given", tiny_condition_unet(2, 16));
  expect_throws_with<TensorError>(
      [&] {
        LatentDiffusionTask(tiny_condition_unet(), DDPMScheduler(), LatentEncoder(tiny_vae()),
                            {.conditioning_key = "crossattn",
                             .unconditional_hidden_states = at::zeros({2, 3, 6}),
                             .conditioning_dropout_prob = 0.1,
                             .diffusion = {.conditioning = states}});
      },
      "expected floating [L, D] or [1, L, D]");
}

TEST(LatentDiffusionTask, NamesDataThatDoesNotFit) {
  const LogCapture log;
  const TemporaryFolder unlabelled;
  expect_throws_with<ConfigError>(
      [&] {
        const auto task = std::make_shared<LatentDiffusionTask>(
            tiny_latent_unet(2, 5), DDPMScheduler(), LatentEncoder(tiny_vae()),
            LatentDiffusionTaskOptions{.conditioning_key = "adm"});
        Trainer(task, latent_config(unlabelled.path())).train(TensorDataset(latent_samples().images));
      },
      "conditioning_key is \"adm\", but the dataset has no class labels");
  const auto refuse = [](const std::string& name, const std::function<void(Batch&)>& change,
                         const char* part) {
    const TemporaryFolder folder;
    Batch samples = latent_samples();
    change(samples);
    expect_throws_with<Error>(
        [&] {
          Trainer(latent_parts(latent_case(name), at::kFloat).task(), latent_config(folder.path()))
              .train(TensorDataset(samples));
        },
        part);
  };
  refuse(
      "none",
      [](Batch& batch) {
        batch.images = at::zeros({40, 1, 8, 8});
      },
      "in_channels is 3");
  refuse(
      "none",
      [](Batch& batch) {
        batch.images = at::zeros({40, 3, 8, 7});
      },
      "multiples of 2");
  refuse(
      "concat", [](Batch& batch) { batch.conditioning_images = Tensor(); }, "the conditioning images of");
  refuse(
      "concat",
      [](Batch& batch) {
        batch.conditioning_images = at::zeros({40, 1, 8, 8});
      },
      "expected in_channels 3");
  refuse(
      "encoded",
      [](Batch& batch) {
        batch.conditioning_images = at::zeros({40, 3, 4, 4});
      },
      "expected equal sizes");
  refuse(
      "inpainting", [](Batch& batch) { batch.masks = Tensor(); }, "the masks of the dataset are");
}

}  // namespace
}  // namespace diffusers
