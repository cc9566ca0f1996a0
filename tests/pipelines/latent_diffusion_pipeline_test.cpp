#include <string>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/latent_diffusion_pipeline.h>
#include <diffusers/pipelines/sampling_loop.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "models/concat_channels.h"
#include "support/golden.h"
#include "training/tiny_autoencoder.h"
#include "training/tiny_latent_unet.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::tiny_condition_unet;
using test::tiny_latent_unet;
using test::tiny_vae;
using test::tiny_vqvae;

constexpr int64_t kLatentSteps = 3;

DDIMScheduler unclipped_ddim() { return DDIMScheduler({.clip_sample = false}); }

template <class Autoencoder, class UNet>
LatentDiffusionPipeline latent_pipeline_of(const Autoencoder& vae, const UNet& unet) {
  return LatentDiffusionPipeline({{"vae", vae}, {"unet", unet}, {"scheduler", unclipped_ddim()}});
}

Tensor start_noise() { return at::randn({2, 2, 4, 4}, make_generator(7)); }

/// The images that a loop by hand gives.
Tensor sampled_by_hand(const AutoencoderKL& vae, const Denoiser& denoiser, const Conditioning& conditioning) {
  const at::NoGradGuard no_grad;
  DDIMScheduler ddim = unclipped_ddim();
  ddim.set_timesteps(kLatentSteps);
  const Tensor latents = sampling_loop(ddim, denoiser, conditioning, start_noise());
  return (vae->decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1);
}

/// Both predictions, one forward each.
Denoiser guided_by_hand(Denoiser denoiser, Conditioning without, double scale) {
  return [denoiser = std::move(denoiser), without = std::move(without), scale](
             const Tensor& noisy, const Tensor& t, const Conditioning& with) {
    const Tensor unconditional = denoiser(noisy, t, without);
    return unconditional + scale * (denoiser(noisy, t, with) - unconditional);
  };
}

LatentDiffusionPipelineOptions seeded(LatentDiffusionPipelineOptions options = {}) {
  options.num_inference_steps = kLatentSteps;
  options.generator = make_generator(7);
  return options;
}

TEST(LatentDiffusionPipeline, DrawsClassesWithGuidance) {
  const AutoencoderKL vae = tiny_vae();
  const UNet2DModel unet = tiny_latent_unet(2, 5);
  auto pipeline = latent_pipeline_of(vae, unet);
  const Tensor labels = at::tensor({3, 1}, at::kLong);
  const Denoiser denoiser = make_denoiser(unet);
  expect_close(pipeline(seeded({.class_labels = labels})).images,
               sampled_by_hand(vae, denoiser, {.class_labels = labels}), 1e-5, 1e-5);
  const Tensor guided = pipeline(seeded({.class_labels = labels, .guidance_scale = 3.0})).images;
  expect_close(
      guided,
      sampled_by_hand(vae, guided_by_hand(denoiser, {.class_labels = at::full({2}, 4, at::kLong)}, 3.0),
                      {.class_labels = labels}),
      1e-4, 1e-4);
}

TEST(LatentDiffusionPipeline, DrawsFromImagesBehindTheLatents) {
  const AutoencoderKL vae = tiny_vae();
  const UNet2DModel unet = tiny_latent_unet(5);
  auto pipeline = latent_pipeline_of(vae, unet);
  const Tensor images = at::rand({2, 3, 8, 8}, make_generator(2));
  const Tensor channels = resized_conditioning_images(images, start_noise());
  const Denoiser denoiser = make_denoiser(unet);
  expect_close(pipeline(seeded({.conditioning_images = images})).images,
               sampled_by_hand(vae, denoiser, {.extra_channels = channels}), 1e-5, 1e-5);
  expect_close(
      pipeline(seeded({.conditioning_images = images, .guidance_scale = 2.0})).images,
      sampled_by_hand(vae, guided_by_hand(denoiser, {.extra_channels = at::zeros_like(channels)}, 2.0),
                      {.extra_channels = channels}),
      1e-4, 1e-4);

  // As latents of the autoencoder: the setting goes with the folder.
  const UNet2DModel wide = tiny_latent_unet(4);
  auto encoding = latent_pipeline_of(vae, wide);
  EXPECT_FALSE(encoding.encodes_conditioning_images());
  encoding.set_encodes_conditioning_images(true);
  const test::TemporaryFolder folder;
  encoding.save_pretrained(folder.path());
  auto loaded = DiffusionPipeline::from_pretrained(folder.path());
  EXPECT_TRUE(loaded->as<LatentDiffusionPipeline>().encodes_conditioning_images());
  const at::NoGradGuard no_grad;
  const Tensor encoded = vae->encode(images * 2 - 1).latent_dist.mean * 0.18215;
  expect_close(loaded->as<LatentDiffusionPipeline>()(seeded({.conditioning_images = images})).images,
               sampled_by_hand(vae, make_denoiser(wide), {.extra_channels = encoded}), 1e-5, 1e-5);
}

TEST(LatentDiffusionPipeline, Inpaints) {
  const AutoencoderKL vae = tiny_vae();
  const UNet2DModel unet = tiny_latent_unet(5);
  auto pipeline = latent_pipeline_of(vae, unet);
  const Tensor image = at::rand({2, 3, 8, 8}, make_generator(2));
  const Tensor mask = (at::rand({2, 1, 8, 8}, make_generator(3)) < 0.5).to(at::kFloat);
  Generator generator = make_generator(7);
  at::randn({2, 2, 4, 4}, generator);  // the noise to start from
  const at::NoGradGuard no_grad;
  const Tensor masked = vae->encode((image * 2 - 1) * (mask < 0.5)).latent_dist.sample(generator) * 0.18215;
  const Tensor channels = inpainting_channels(mask, masked);
  expect_close(pipeline(seeded({.image = image, .mask_image = mask})).images,
               sampled_by_hand(vae, make_denoiser(unet), {.extra_channels = channels}), 1e-5, 1e-5);
}

TEST(LatentDiffusionPipeline, DrawsFromHiddenStatesAndTexts) {
  const std::string folder = test::golden_path("tiny_stable_diffusion");
  const AutoencoderKL vae = tiny_vae();
  const UNet2DConditionModel unet = tiny_condition_unet(5, 16);
  const auto text = CLIPTextModel::from_pretrained(folder, {.subfolder = "text_encoder"});
  const auto tokenizer = CLIPTokenizer::from_pretrained(folder, {.subfolder = "tokenizer"});
  LatentDiffusionPipeline pipeline({{"vae", vae},
                                    {"unet", unet},
                                    {"scheduler", unclipped_ddim()},
                                    {"text_encoder", text},
                                    {"tokenizer", tokenizer}});
  const at::NoGradGuard no_grad;
  const auto states = [&](const Texts& texts) {
    return text
        ->forward(tokenizer(texts, {.padding = Padding::kMaxLength,
                                    .truncation = true,
                                    .max_length = text->config().max_position_embeddings})
                      .input_ids)
        .last_hidden_state;
  };
  const Texts prompts{"a red cat", "two dogs"};
  const Tensor images = at::rand({2, 3, 8, 8}, make_generator(2));
  const Tensor channels = resized_conditioning_images(images, start_noise());
  const Conditioning with{.encoder_hidden_states = states(prompts), .extra_channels = channels};
  const Conditioning without{.encoder_hidden_states = states("").expand_as(with.encoder_hidden_states),
                             .extra_channels = at::zeros_like(channels)};
  const Tensor expected = sampled_by_hand(vae, guided_by_hand(make_denoiser(unet), without, 2.0), with);
  expect_close(
      pipeline(seeded({.prompt = prompts, .conditioning_images = images, .guidance_scale = 2.0})).images,
      expected, 1e-4, 1e-4);
  expect_close(pipeline(seeded({.prompt_embeds = with.encoder_hidden_states,
                                .negative_prompt_embeds = without.encoder_hidden_states.slice(0, 0, 1),
                                .conditioning_images = images,
                                .guidance_scale = 2.0}))
                   .images,
               expected, 1e-4, 1e-4);
  const test::TemporaryFolder saved;
  pipeline.save_pretrained(saved.path());
  auto loaded = LatentDiffusionPipeline::from_pretrained(saved.path());
  expect_close(
      loaded(seeded({.prompt = prompts, .conditioning_images = images, .guidance_scale = 2.0})).images,
      expected, 1e-4, 1e-4);
}

TEST(LatentDiffusionPipeline, TakesAVQModelAndAnySize) {
  auto pipeline = latent_pipeline_of(tiny_vqvae(), tiny_latent_unet());
  EXPECT_EQ(pipeline(seeded()).images.sizes(), (at::IntArrayRef{1, 3, 8, 8}));
  EXPECT_EQ(pipeline(seeded({.batch_size = 3, .height = 16, .width = 12})).images.sizes(),
            (at::IntArrayRef{3, 3, 16, 12}));
  EXPECT_EQ(pipeline(seeded({.batch_size = 2, .output_type = "latent"})).images.sizes(),
            (at::IntArrayRef{2, 2, 4, 4}));
}

TEST(LatentDiffusionPipeline, SamplesWithoutClippingLatents) {
  LatentDiffusionPipeline pipeline(
      {{"vae", tiny_vae()}, {"unet", tiny_latent_unet()}, {"scheduler", DDIMScheduler()}});
  EXPECT_EQ(pipeline.scheduler().clip_sample(), false);
}

TEST(LatentDiffusionPipeline, NamesWhatDoesNotFit) {
  auto plain = latent_pipeline_of(tiny_vae(), tiny_latent_unet());
  auto classes = latent_pipeline_of(tiny_vae(), tiny_latent_unet(2, 5));
  auto images = latent_pipeline_of(tiny_vae(), tiny_latent_unet(5));
  auto states = latent_pipeline_of(tiny_vae(), tiny_condition_unet());
  const Tensor labels = at::zeros({2}, at::kLong);
  const Tensor pictures = at::zeros({2, 3, 8, 8});
  const auto refuse = [](LatentDiffusionPipeline& pipeline, const LatentDiffusionPipelineOptions& options,
                         const char* part) { expect_throws_with<Error>([&] { pipeline(options); }, part); };
  refuse(plain, {.batch_size = 0}, "batch_size is 0");
  refuse(plain, {.num_inference_steps = 0}, "num_inference_steps is 0");
  refuse(plain, {.class_labels = labels}, "class_labels is given, but the unet takes none");
  refuse(plain, {.guidance_scale = 2.0}, "there is no conditioning to guide with");
  refuse(plain, {.prompt = "a cat"}, "the pipeline has no text_encoder");
  refuse(plain, {.prompt_embeds = at::zeros({1, 3, 6})}, "the unet has no cross-attention");
  refuse(plain, {.conditioning_images = pictures}, "in_channels of the unet is 2, but it receives 5");
  refuse(plain, {.height = 9, .width = 8}, "expected positive multiples of 2");
  refuse(classes, {}, "class_labels is not given");
  refuse(classes, {.class_labels = labels.to(at::kFloat)}, "expected int64 [B]");
  refuse(classes, {.batch_size = 3, .class_labels = labels}, "batch_size says 3 images");
  refuse(images, {}, "in_channels of the unet is 5, but it receives 2");
  refuse(images, {.image = pictures}, "mask_image is an undefined tensor");
  refuse(images, {.image = pictures, .mask_image = at::zeros({2, 3, 8, 8})}, "mask_image is");
  refuse(images, {.image = pictures, .mask_image = at::zeros({2, 1, 8, 8}), .height = 16},
         "expected equal sizes");
  refuse(images, {.conditioning_images = pictures, .image = pictures, .mask_image = at::zeros({2, 1, 8, 8})},
         "expected one of them");
  refuse(images, {.conditioning_images = at::zeros({3, 8, 8})}, "expected a floating [B, C, H, W]");
  refuse(states, {.prompt = "a cat", .prompt_embeds = at::zeros({1, 3, 6})}, "expected one of them");
  refuse(states, {.prompt_embeds = at::zeros({3, 6})}, "expected floating [B, L, D]");
  refuse(states, {.prompt_embeds = at::zeros({1, 3, 6}), .guidance_scale = 2.0},
         "neither negative_prompt_embeds nor a text_encoder");
  refuse(states,
         {.prompt_embeds = at::zeros({1, 3, 6}),
          .negative_prompt_embeds = at::zeros({1, 2, 6}),
          .guidance_scale = 2.0},
         "negative_prompt_embeds is");
}

}  // namespace
}  // namespace diffusers
